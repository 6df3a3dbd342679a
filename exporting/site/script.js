// Reads a photograph into a canvas, has worker.js translate its pixels, and shows both.
const $ = (id) => document.getElementById(id);
const page = await (await fetch("page.json", { cache: "no-cache" })).json();
const worker = new Worker("worker.js", { type: "module" });
let photograph = null; // { name, width, height, pixels }

for (const { name, prompt } of page.directions) $("direction").add(new Option(prompt || name, name));
$("limit").textContent = `Above ${page.longest} pixels a side it is scaled down to that first.`;
$("unserved").hidden = true;
$("controls").hidden = false;

function say(text) { $("status").textContent = text; }

function fail(text) {
  say("");
  $("error").textContent = text;
  $("error").hidden = !text;
}

function compare(shown) {
  for (const part of [$("after"), $("slider"), $("download"), ...document.querySelectorAll(".tag")]) part.hidden = !shown;
  $("stage").classList.toggle("compared", shown);
}

function split() { $("stage").style.setProperty("--split", `${$("slider").value}%`); }

async function open(file) {
  fail("");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return fail(`${file.name} cannot be read as an image. Choose a JPEG, PNG or WebP file.`);
  }
  const share = Math.min(1, page.longest / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * share)), height = Math.max(1, Math.round(bitmap.height * share));
  const canvas = $("before");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  photograph = { name: file.name, width, height, pixels: context.getImageData(0, 0, width, height).data };
  const scaled = share < 1 ? `, scaled down from ${bitmap.width} x ${bitmap.height}` : "";
  bitmap.close();
  compare(false);
  $("figures").textContent = `${width} x ${height} pixels${scaled}`;
  $("viewer").hidden = false;
  $("translate").disabled = false;
}

function asked(message) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.progress) say(data.progress);
      else if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    worker.onerror = (event) => reject(new Error(event.message || "worker.js did not start"));
    worker.postMessage(message);
  });
}

async function translate() {
  const { name, width, height, pixels } = photograph;
  const direction = page.directions.find((one) => one.name === $("direction").value);
  fail("");
  compare(false); // else the result of another direction would stand there, and be downloaded
  for (const id of ["translate", "file", "direction"]) $(id).disabled = true;
  try {
    const { result, seconds } = await asked({ ...direction, width, height, pixels });
    const canvas = $("after");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").putImageData(new ImageData(result, width, height), 0, 0);
    const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    URL.revokeObjectURL($("download").href);
    Object.assign($("download"), {
      href: URL.createObjectURL(png),
      download: `${name.replace(/\.[^.]*$/, "")}-${direction.name}.png`,
    });
    $("figures").textContent = `${width} x ${height} pixels, ${seconds.toFixed(1)} seconds`;
    compare(true);
    say("");
  } catch (error) {
    fail(`The photograph could not be translated: ${error.message}.`);
  } finally {
    for (const id of ["translate", "file", "direction"]) $(id).disabled = false;
  }
}

$("file").addEventListener("change", () => { if ($("file").files.length) open($("file").files[0]); });
$("controls").addEventListener("submit", (event) => { event.preventDefault(); translate(); });
$("slider").addEventListener("input", split);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length && !$("file").disabled) open(event.dataTransfer.files[0]);
  });
}
