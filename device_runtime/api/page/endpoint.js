// The endpoint: requests with the key, if it wants one, and what comes back.

// Nowhere but here: a reload forgets it.
let key = null;
let keyDialog = null;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A response of status 200; where the key is missing or wrong, after the user has been asked.
async function ask(path, options = {}) {
  for (;;) {
    const used = key;
    const headers = { ...options.headers };
    if (used !== null) headers.Authorization = `Bearer ${used}`;
    const response = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
    if (response.ok) return response;
    if (response.status !== 401) throw new Refused(response.status, await messageOf(response));
    // Another request may have got a new key meanwhile.
    if (key === used) await (keyDialog ??= askForKey(used !== null));
  }
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the endpoint answered with status ${response.status}`;
  }
}

async function askForKey(wasRefused) {
  const dialog = document.getElementById("key");
  const text = document.getElementById("key-text");
  if (wasRefused) {
    document.getElementById("key-words").textContent = "That key was refused. Try another one.";
  }
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  key = text.value === "" ? null : text.value;
  text.value = "";
  keyDialog = null;
}

// The documents of an event stream up to [DONE].
// Source: WHATWG HTML, "Server-sent events"; OpenAI ends a stream with the data `[DONE]`.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Refused(0, "the endpoint broke off the answer");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(0, event.error.message);
      yield event;
    }
  }
}

// The samples of a page of metrics by name; of several with one name the last.
async function readMetrics() {
  const page = await (await ask("/metrics")).text();
  const samples = new Map();
  for (const line of page.split("\n")) {
    const found = /^(hat_\w+)(?:\{.*\})? (\S+)$/.exec(line);
    if (found) samples.set(found[1], Number(found[2]));
  }
  return samples;
}

// Why no request would be served now, or null.
async function notReady() {
  try {
    await ask("/ready");
    return null;
  } catch (error) {
    return error.message;
  }
}
