// Numbers as people read them. Unknown ones are a dash.

const NONE = "–";
const PREFIXES = ["", "k", "M", "G"];

const isKnown = (value) => Number.isFinite(value);

function threeDigits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function countWords(value) {
  return isKnown(value) ? value.toLocaleString("en") : NONE;
}

function timeWords(seconds) {
  if (!isKnown(seconds)) return NONE;
  return seconds < 1 ? `${oneDigit(seconds * 1000)} ms` : `${threeDigits(seconds)} s`;
}

function oneDigit(value) {
  return value < 10 ? value.toFixed(1) : value.toFixed(0);
}

function bytesWords(bytes) {
  return isKnown(bytes) ? `${withPrefix(bytes)}B` : NONE;
}

// Above ten gigabits no frame is long enough to tell.
function rateWords(bytesPerSecond) {
  if (!isKnown(bytesPerSecond)) return NONE;
  const bits = 8 * bytesPerSecond;
  return bits > 1e10 ? "> 10 Gbit/s" : `${withPrefix(bits)}bit/s`;
}

function withPrefix(value) {
  let prefix = 0;
  while (value >= 1000 && prefix < PREFIXES.length - 1) {
    value /= 1000;
    prefix += 1;
  }
  return `${prefix ? threeDigits(value) : value.toFixed(0)} ${PREFIXES[prefix]}`;
}

function speedWords(tokensPerSecond) {
  return isKnown(tokensPerSecond) ? threeDigits(tokensPerSecond) : NONE;
}

const plural = (number, word) => `${countWords(number)} ${word}${number === 1 ? "" : "s"}`;

// The device's reasons begin in lower case and have no stop.
function sentence(reason) {
  const text = reason.charAt(0).toUpperCase() + reason.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
