"""A web page that translates photographs: Gradio's widgets, and the server under them."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import ImageData
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from images.opening import UNREADABLE, open_image
from inference.high_resolution import RESOLUTIONS
from serving.catalogue import Facts, without_folders
from serving.models import LoadedModels
from serving.variants import BACKENDS, DemoTranslator, Result

TITLE = "One-step image translation"
MOST_VARIANTS = 4
WAITING = 16  # translations that wait for the one that runs
UPLOAD_BYTES = 200 << 20
KEPT = 3600  # seconds that uploads are kept
SMALLEST, LARGEST = 16, 2048  # pixels of the short side that can be asked for
UNFILTERED = 10  # names that need no search: a field for it opens a phone's keyboard
LARGEST_SEED = 2**31 - 1
STYLE = Path(__file__).parent / "page.css"
SHOW_RESULT = "() => document.querySelector('#result').scrollIntoView({behavior: 'smooth', block: 'nearest'})"
# Gradio's page runs scripts of its own text; pictures that were just chosen are blobs.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
SHOWN_BY_BROWSERS = ("JPEG", "PNG", "WEBP", "BMP")
Shown = tuple[str, str] | None
"""A picture on the page, and the file that it stands for."""
SIDES = {"a2b": "A to B", "b2a": "B to A"}


def create_app(
    models: LoadedModels, facts: Mapping[str, Facts], folder: Path, ended: Callable[[], None] = lambda: None
) -> FastAPI:
    """The page as an ASGI application.

    Args:
        models: what can be chosen.
        facts: of each name, as `Facts.read` gives them.
        folder: for uploads and results; the environment's GRADIO_TEMP_DIR, which the caller removes at the end.
        ended: called when connections are closed; a translation may still run.

    Raises:
        OSError: the first model is a checkpoint that cannot be loaded.
        ValueError: likewise.
    """
    page = build_page(DemoTranslator(models, facts, folder))
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    page.has_launched = True  # what launch() sets: before it, Gradio takes any path of this machine for an upload
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="sm",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        ended()

    app = FastAPI(openapi_url=None, lifespan=lifespan)  # without it there is no page of documentation either
    app.add_middleware(NothingFromOutside)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        app_kwargs={"openapi_url": None},
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=UPLOAD_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css_paths=STYLE,
    )


class NothingFromOutside:
    """ASGI middleware: browsers load nothing for this page from other machines, whatever it asks for.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers that say so."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def build_page(demo: DemoTranslator) -> gr.Blocks:
    """Widgets and what they do.

    Raises:
        OSError: the first model is a checkpoint that cannot be loaded.
        ValueError: likewise.
    """
    first = demo.facts(demo.names[0])
    with gr.Blocks(analytics_enabled=False, title=TITLE, delete_cache=(KEPT // 6, KEPT)) as page:
        gr.Markdown(f"# {TITLE}\nDrop a photograph, choose what becomes of it, and compare before and after.")
        shown = gr.State(None)
        original = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                photo = gr.Image(
                    label="Photograph",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=240,
                    buttons=[],
                    placeholder="Drop a photograph here, or click",
                    elem_id="photo",
                )
                photo.preprocess = _uploaded_path  # type: ignore[method-assign]  # Gradio's own would decode the file
                photo.async_move_resource_to_block_cache = _only_uploaded  # type: ignore[method-assign]
                name = gr.Dropdown(
                    [*demo.names],
                    value=demo.names[0],
                    filterable=len(demo.names) > UNFILTERED,
                    label="Adapter",
                    elem_id="adapter",
                )
                about = gr.Markdown(_about(first), elem_id="about")
                direction = _direction(first)
                prompt = _prompt(first, first.directions[0])
                lines = _lines(first)
                strength = gr.Slider(
                    0,
                    1,
                    value=1,
                    step=0.05,
                    buttons=[],
                    label="Strength",
                    info="1 follows the photograph. Below 1, noise is blended in, and each seed gives another variant.",
                    visible=not first.trained_only,
                    elem_id="strength",
                )
                with gr.Row(visible=False, elem_id="variation") as variation:
                    count = gr.Slider(
                        1, MOST_VARIANTS, value=MOST_VARIANTS, step=1, buttons=[], label="Variants", min_width=130
                    )
                    seed = gr.Number(0, label="First seed", precision=0, minimum=0, maximum=LARGEST_SEED, min_width=130)
                with gr.Accordion("Size and resolution", open=False):
                    size = gr.Number(
                        0,
                        label="Short side, pixels",
                        info=f"Resizes the photograph first, to {SMALLEST} up to {LARGEST} pixels; 0 keeps its size.",
                        precision=0,
                        elem_id="size",
                    )
                    resolution = gr.Radio(
                        [*RESOLUTIONS],
                        value="auto",
                        label="Above the trained size",
                        info="lift carries the change of colours to full size; tiles draws at full size; direct gives "
                        "the network the whole photograph.",
                        elem_id="resolution",
                    )
                go = gr.Button("Translate", variant="primary", elem_id="go")
            with gr.Column(scale=3, min_width=300, elem_id="result"):
                slider = gr.ImageSlider(
                    label="Before and after",
                    type="filepath",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=640,
                    elem_id="slider",
                )
                summary = gr.Markdown("", elem_id="summary")
                gallery = gr.Gallery(
                    show_label=False,
                    visible=False,
                    columns=2,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    object_fit="contain",
                    elem_id="variants",
                )
                download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download")

        def choose(chosen: str, share: float) -> dict[object, object]:
            """Show what a model can do."""
            with _sentences():
                facts = demo.facts(chosen)
            return {
                about: gr.Markdown(_about(facts)),
                direction: _direction(facts),
                prompt: _prompt(facts, facts.directions[0]),
                lines: _lines(facts),
                strength: gr.Slider(visible=not facts.trained_only),
                variation: gr.Row(visible=share < 1 and not facts.trained_only),
            }

        def turn(chosen: str, way: str) -> gr.Textbox:
            """Show the trained prompt of a direction."""
            with _sentences():
                return _prompt(demo.facts(chosen), way)

        def translate(
            file: str | None,
            as_shown: Shown,
            chosen: str,
            way: str,
            text: str | None,
            draw: bool,
            share: float,
            number: float,
            first_seed: float | None,
            side: float | None,
            how: str,
        ) -> dict[object, object]:
            """Translate, and show the first variant."""
            if not file:
                raise gr.Error("Drop a photograph first.", title="No photograph", print_exception=False)
            if side and not SMALLEST <= side <= LARGEST:
                wanted = f"The short side must have {SMALLEST} to {LARGEST} pixels."
                raise gr.Error(wanted, title="Size", print_exception=False)
            if as_shown is not None and as_shown[0] == file:
                file = as_shown[1]
            with _sentences(Path(file)):
                facts = demo.facts(chosen)
                result = demo.translate(
                    Path(file),
                    chosen,
                    way,
                    prompt=None if facts.trained_only else (text or "").strip(),
                    draw_lines=draw,
                    strength=1.0 if facts.trained_only else share,
                    variants=int(number),
                    seed=int(first_seed or 0),
                    size=int(side) if side else None,
                    resolution=how,
                )
            several = len(result.variants) > 1
            pictures = [(str(variant.preview), variant.label) for variant in result.variants]
            return {
                shown: result,
                slider: (str(result.before), str(result.variants[0].preview)),
                summary: result.summary,
                gallery: gr.Gallery(
                    pictures if several else None, visible=several, selected_index=0 if several else None
                ),
                download: gr.DownloadButton(value=str(result.variants[0].full), interactive=True),
            }

        def pick(result: Result | None, event: gr.SelectData) -> dict[object, object]:
            """Show another variant."""
            if result is None or not isinstance(event.index, int):
                return {slider: gr.skip()}
            variant = result.variants[event.index]
            return {
                slider: (str(result.before), str(variant.preview)),
                download: gr.DownloadButton(value=str(variant.full)),
            }

        photo.upload(partial(take, demo), photo, [photo, original], show_progress="hidden", api_visibility="private")
        name.change(
            choose,
            [name, strength],
            [about, direction, prompt, lines, strength, variation],
            show_progress="hidden",
            api_visibility="private",
        )
        direction.change(turn, [name, direction], prompt, show_progress="hidden", api_visibility="private")
        strength.change(
            lambda share: gr.Row(visible=share < 1),
            strength,
            variation,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        go.click(
            translate,
            [photo, original, name, direction, prompt, lines, strength, count, seed, size, resolution],
            [shown, slider, summary, gallery, download],
            show_progress_on=[slider],
            concurrency_id="translate",
            api_visibility="private",
        ).success(None, js=SHOW_RESULT, api_visibility="private")
        gallery.select(pick, shown, [slider, download], show_progress="hidden", api_visibility="private")
    return page


def take(demo: DemoTranslator, file: str | None) -> tuple[str | None, Shown]:
    """Check a file as soon as it is there, by its content: what it is called counts for nothing.

    Returns:
        What to show; and, where browsers cannot show the file itself, that with the file.
    """
    if file is None:
        return None, None
    try:
        demo.check_uploaded(Path(file))
        with open_image(Path(file)) as header:
            if header.format in SHOWN_BY_BROWSERS:
                return file, None
        preview = str(demo.preview(Path(file)))
    except UNREADABLE as error:
        name, why = Path(file).name, _without_path(error, Path(file))
        gr.Warning(why if name in why else f"{name} cannot be read as an image: {why}.", title="Another file, please")
        return None, None
    return preview, (preview, file)


@contextmanager
def _sentences(photo: Path | None = None) -> Iterator[None]:
    """Context in which what a user can mend becomes a sentence on the page, without paths of this machine.

    Raises:
        gr.Error: such a sentence.
    """
    try:
        yield
    except (ValueError, OSError, MemoryError) as error:
        raise gr.Error(_without_path(error, photo), title="This did not work", print_exception=False) from error


def _without_path(error: Exception, photo: Path | None) -> str:
    return str(error) if photo is None else str(error).replace(str(photo), photo.name)


def _uploaded_path(payload: ImageData | None) -> str | None:
    """The uploaded file as it came: decoding it is our reader's work, and its errors are our sentences."""
    return None if payload is None else payload.path


async def _only_uploaded(url_or_file_path: str | Path | None) -> str | None:
    """The path of an uploaded file; an address that a client names in its place is not fetched.

    Raises:
        gr.Error: it is an address.
    """
    if url_or_file_path is not None and "://" in str(url_or_file_path):
        raise gr.Error("Upload the photograph itself: addresses are not opened.", print_exception=False)
    return None if url_or_file_path is None else str(url_or_file_path)


def _about(facts: Facts) -> str:
    """What was trained, on what, without paths of this machine."""
    parts = [facts.title, f"base {facts.base}" if facts.base else "", BACKENDS.get(facts.backend, facts.backend)]
    if facts.training.size is not None:
        parts.append(f"trained at {facts.training.size} px")
    about = ", ".join(part for part in parts if part)
    if facts.training.data is not None:
        about += f". Trained on {facts.training.data}"
    if facts.kind == "exported":
        about += ". An exported model translates at strength 1, by the prompts it was exported with"
    return f"{without_folders(about)}."


def _direction(facts: Facts) -> gr.Radio:
    named = [
        (f"{SIDES[way]}: {facts.prompts[way]}" if way in facts.prompts else SIDES[way], way) for way in facts.directions
    ]
    return gr.Radio(named, value=facts.directions[0], label="Direction", elem_id="direction")


def _prompt(facts: Facts, direction: str) -> gr.Textbox:
    trained, edits = facts.prompts.get(direction), facts.training.edits
    info = "Empty takes the one trained with." if trained else "Say what the result shows."
    return gr.Textbox(  # without a value: what was typed stays
        label="Prompt",
        info=f"Trained: {'; '.join(edits)}." if edits else info,
        placeholder=trained,
        max_length=500,
        visible=not facts.trained_only,
        elem_id="prompt",
    )


def _lines(facts: Facts) -> gr.Checkbox:
    kind = facts.training.line_drawing
    return gr.Checkbox(
        kind != "none",
        label="Draw the lines first",
        info=f"This adapter takes {kind} lines. Untick where the image is such a drawing already.",
        visible=kind != "none",
        elem_id="lines",
    )
