// What device, uplink, cloud and downlink did when: four lanes over one axis of time.

const LANES = ["device", "uplink", "cloud", "downlink"];
const LANE_HEIGHT = 34;
const BAR_TOP = 17;
const BAR_HEIGHT = 11;
const AXIS_TOP = LANES.length * LANE_HEIGHT + 2;
const MOST_ROUNDS = 6;
const SVG = "http://www.w3.org/2000/svg";

const lanes = document.getElementById("lanes");
const views = document.getElementById("views");
let drawn = null;

// Show the timeline of an answer, or with null that there is none.
function showLanes(figures) {
  drawn = figures;
  views.disabled = figures === null;
  drawLanes();
}

function drawLanes() {
  const width = lanes.clientWidth || 320;
  lanes.replaceChildren();
  lanes.setAttribute("viewBox", `0 0 ${width} ${AXIS_TOP + 16}`);
  LANES.forEach((lane, row) => drawTrack(lane, row * LANE_HEIGHT, width));
  if (drawn === null) {
    lanes.setAttribute("aria-label", "No timeline: it comes with the end of an answer");
    return;
  }
  const [startS, endS] = shownTimes(views.querySelector(":checked").value);
  const place = (seconds) => ((seconds - startS) / (endS - startS)) * width;
  drawAxis(startS, endS, width, place);
  const sums = LANES.map((lane, row) => drawLane(lane, row, startS, endS, width, place));
  const said = LANES.map((lane, row) => `${lane} ${timeWords(sums[row])}`).join(", ");
  lanes.setAttribute("aria-label", `Busy within ${timeWords(endS - startS)}: ${said}`);
}

function shownTimes(view) {
  const end = Math.max(drawn.seconds.total, ...drawn.timeline.map((bar) => bar.end_s));
  if (view === "prompt") return [0, drawn.first_token_s ?? end];
  if (view === "rounds") {
    const steps = drawn.timeline.filter((bar) => bar.lane === "cloud");
    const before = steps.at(-1 - MOST_ROUNDS) ?? steps[0];
    return [before?.end_s ?? 0, end];
  }
  return [0, end];
}

function drawTrack(lane, top, width) {
  drawPart("text", { class: "name", x: 0, y: top + 12 }, lanes, lane);
  drawPart("rect", { class: "track", x: 0, y: top + BAR_TOP, width, height: BAR_HEIGHT }, lanes);
}

// One lane; how long it was busy within what is shown.
function drawLane(lane, row, startS, endS, width, place) {
  const top = row * LANE_HEIGHT;
  const bars = drawn.timeline.filter(
    (bar) => bar.lane === lane && bar.end_s > startS && bar.start_s < endS
  );
  const group = drawPart("g", { "data-lane": lane }, lanes);
  const right = { prefill: 0, draft: 0, verify: 0, ahead: 0 };
  for (const bar of bars) {
    const left = Math.max(place(bar.start_s), 0);
    const end = Math.min(Math.max(place(bar.end_s), left + 1), width);
    // Of bars that share a pixel one is enough.
    if (end <= right[bar.what]) continue;
    right[bar.what] = end;
    const rectangle = { x: left, y: top + BAR_TOP, width: Math.max(end - left, 0.5), height: BAR_HEIGHT };
    const drawnBar = drawPart("rect", { ...rectangle, "data-what": bar.what }, group);
    const took = timeWords(bar.end_s - bar.start_s);
    drawPart("title", {}, drawnBar, `${bar.what}, ${plural(bar.num_tokens, "token")}, ${took}`);
  }
  const busyS = union(bars, startS, endS);
  drawPart("text", { x: width, y: top + 12, "text-anchor": "end" }, lanes, timeWords(busyS));
  return busyS;
}

// The time that at least one bar covers.
function union(bars, startS, endS) {
  let covered = 0;
  let until = startS;
  for (const bar of bars.toSorted((one, other) => one.start_s - other.start_s)) {
    const end = Math.min(bar.end_s, endS);
    covered += Math.max(end - Math.max(bar.start_s, until), 0);
    until = Math.max(until, end);
  }
  return covered;
}

function drawAxis(startS, endS, width, place) {
  const step = niceStep((endS - startS) / 4);
  for (let tick = 0; startS + tick * step <= endS; tick += 1) {
    const x = place(startS + tick * step);
    drawPart("line", { x1: x, x2: x, y1: AXIS_TOP - 4, y2: AXIS_TOP }, lanes);
    const anchor = tick === 0 ? "start" : x > width - 24 ? "end" : "middle";
    const words = tick === 0 ? "0" : tickWords(tick * step);
    drawPart("text", { x, y: AXIS_TOP + 13, "text-anchor": anchor }, lanes, words);
  }
}

// Without zeros behind: steps are round numbers.
function tickWords(seconds) {
  return seconds < 1 ? `${Number((1000 * seconds).toPrecision(3))} ms` : `${Number(seconds.toPrecision(3))} s`;
}

// 1, 2 or 5 times a power of ten, the least that is no smaller.
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999) ?? least;
}

function drawPart(name, attributes, parent, text) {
  const part = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) part.setAttribute(attribute, value);
  if (text !== undefined) part.textContent = text;
  parent.append(part);
  return part;
}

views.addEventListener("change", drawLanes);
new ResizeObserver(drawLanes).observe(lanes);
