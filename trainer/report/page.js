// Plotly's script is packed: base 85 of zlib's format. Its digest is in the page's policy, like that of this script.
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%,()*+-;.=:?@^_`{|}~";

function bytesOf(text) {
  const values = new Uint8Array(128);
  for (let digit = 0; digit < 85; digit++) values[DIGITS.charCodeAt(digit)] = digit;
  const padding = (5 - (text.length % 5)) % 5;
  const whole = text + "~".repeat(padding);
  const bytes = new Uint8Array((whole.length / 5) * 4);
  const view = new DataView(bytes.buffer);
  for (let at = 0, to = 0; at < whole.length; at += 5, to += 4) {
    let number = 0;
    for (let next = at; next < at + 5; next++) number = number * 85 + values[whole.charCodeAt(next)];
    view.setUint32(to, number);
  }
  return bytes.subarray(0, bytes.length - padding);
}

async function unpacked(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

function draw() {
  for (const chart of document.querySelectorAll(".chart")) {
    const figure = JSON.parse(chart.querySelector("script").textContent);
    const plot = chart.querySelector("div");
    Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  }
}

async function copy(button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(button.title);
    button.textContent = "copied";
  } catch {
    button.textContent = button.title; // to be selected by hand
    return;
  }
  setTimeout(() => { button.textContent = said; }, 1200);
}

for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
unpacked(document.querySelector("#library").textContent).then((text) => {
  const script = document.createElement("script");
  script.text = text;
  document.head.append(script);
  draw();
}).catch((error) => {
  for (const chart of document.querySelectorAll(".chart div")) chart.textContent = `This browser cannot draw it: ${error}`;
});
