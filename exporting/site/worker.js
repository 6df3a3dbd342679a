// Runs the models beside the page, which stays usable meanwhile.
import * as ort from "./ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // threads need headers that most static hosts do not send
let session = null, opened = null; // of one direction: two would take twice the memory

const megabytes = (bytes) => (bytes / 1e6).toFixed(0);

async function download(model, bytes) {
  const answer = await fetch(model, { cache: "no-cache" }); // the page may have been written again
  if (!answer.ok) throw new Error(`${model} is missing (${answer.status})`);
  const content = new Uint8Array(bytes), reader = answer.body.getReader();
  let length = 0;
  for (let piece; !(piece = await reader.read()).done; ) {
    if (length + piece.value.length > bytes) throw new Error(`${model} is not the file that page.json names`);
    content.set(piece.value, length);
    length += piece.value.length;
    postMessage({ progress: `Loading the model: ${megabytes(length)} of ${megabytes(bytes)} MB` });
  }
  if (length !== bytes) throw new Error(`${model} is not the file that page.json names`);
  return content;
}

onmessage = async ({ data: { model, bytes, width, height, pixels } }) => {
  try {
    if (opened !== model) {
      await session?.release();
      session = opened = null;
      session = await ort.InferenceSession.create(await download(model, bytes), { executionProviders: ["wasm"] });
      opened = model;
    }
    postMessage({ progress: "Translating" });
    const start = performance.now();
    const inputs = { pixels: new ort.Tensor("uint8", new Uint8Array(pixels.buffer), [height, width, 4]) };
    const { result } = await session.run(inputs);
    const seconds = (performance.now() - start) / 1000;
    const colours = new Uint8ClampedArray(result.data);
    postMessage({ result: colours, seconds }, [colours.buffer]);
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};
