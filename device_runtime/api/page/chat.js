// The conversation: questions, and answers as they come. Texts are put in as texts, never as HTML.

const conversation = document.getElementById("conversation");
const turns = document.getElementById("turns");
const question = document.getElementById("question");
const colours = document.getElementById("colours");
const NEAR_PX = 60;

let messages = [];
let running = null;

async function answer(text) {
  const asked = [...messages, { role: "user", content: text }];
  const own = addTurn("user", "You");
  own.words.append(text);
  const reply = addTurn("assistant", "Answer");
  const progress = new Progress();
  const stopping = new AbortController();
  begin(stopping);
  reply.turn.classList.add("waiting");
  let ending = "";
  try {
    await stream(asked, stopping.signal, reply, progress);
    if (progress.ending === "length") ending = "length limit";
  } catch (error) {
    ending = stopping.signal.aborted ? "stopped" : "failed";
    if (ending === "failed") fail(reply, error);
  }
  // Another conversation may have begun meanwhile.
  if (running !== stopping) return;
  reply.turn.classList.remove("waiting");
  finish(text, asked, own, reply, progress, ending);
}

async function stream(asked, signal, reply, progress) {
  const body = {
    messages: asked,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    include_hat_stats: "rounds",
  };
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const event of eventsOf(response)) {
    if (signal.aborted) return;
    progress.take(event);
    if (event.choices.length) addTokens(reply, event);
    showProgress(progress);
  }
}

function addTokens(reply, event) {
  const isFollowed = isAtEnd();
  const text = event.choices[0].delta.content ?? "";
  for (const token of event.hat?.tokens ?? [{ text, origin: "bonus" }]) {
    // The space before a word is the token's too, but need not be coloured, nor begin an answer.
    const own = token.text.trimStart();
    const isFirst = !reply.words.hasChildNodes();
    if (!isFirst) reply.words.append(token.text.slice(0, token.text.length - own.length));
    if (own === "") continue;
    const part = document.createElement("span");
    part.className = token.origin;
    part.textContent = own;
    reply.words.append(part);
  }
  reply.text += text;
  speak(text);
  if (isFollowed) goToEnd();
}

function fail(reply, error) {
  const words = document.createElement("p");
  words.className = "failed";
  words.setAttribute("role", "alert");
  const isNetwork = error instanceof TypeError;
  words.textContent = isNetwork ? "The device does not answer. Is it still running?" : sentence(error.message);
  reply.turn.append(words);
}

function finish(text, asked, own, reply, progress, ending) {
  const isFollowed = isAtEnd();
  end();
  if (reply.text) {
    messages = [...asked, { role: "assistant", content: reply.text }];
    const caption = document.createElement("p");
    caption.className = "caption";
    caption.textContent = ending ? `${progress.words} · ${ending}` : progress.words;
    reply.turn.append(caption);
  } else if (ending) {
    // It was not answered: the user may change it, or send it again.
    own.turn.remove();
    if (ending === "stopped") reply.turn.remove();
    if (question.value === "") question.value = text;
    sizeQuestion();
  }
  document.getElementById("opening").hidden = turns.hasChildNodes();
  showLanes(progress.figures);
  const state = ending === "failed" ? "" : ending ? `Answer: ${ending}.` : "Answer complete.";
  finishSpeaking(`${state} ${reply.text ? progress.words : ""}`);
  if (isFollowed) goToEnd();
}

function begin(stopping) {
  running = stopping;
  document.getElementById("opening").hidden = true;
  document.getElementById("send").hidden = true;
  document.getElementById("stop").hidden = false;
  forgetFailures();
  showProgress(new Progress());
  showLanes(null);
  say("Answering.");
  goToEnd();
}

function forgetFailures() {
  for (const failed of turns.querySelectorAll(".failed")) {
    const turn = failed.closest(".turn");
    failed.remove();
    if (!turn.querySelector(".words").hasChildNodes()) turn.remove();
  }
}

function end() {
  const stop = document.getElementById("stop");
  const hadFocus = document.activeElement === stop;
  running = null;
  document.getElementById("send").hidden = false;
  stop.hidden = true;
  if (hadFocus) question.focus();
}

function startAnew() {
  running?.abort();
  end();
  messages = [];
  turns.replaceChildren();
  document.getElementById("opening").hidden = false;
  showProgress(new Progress());
  show("panel-words", "No answer yet");
  showLanes(null);
  finishSpeaking("New conversation.");
  question.focus();
}

function addTurn(role, name) {
  const turn = document.createElement("article");
  turn.className = `turn ${role}`;
  turn.setAttribute("aria-label", name);
  const words = document.createElement("div");
  words.className = "words";
  turn.append(words);
  turns.append(turn);
  return { turn, words, text: "" };
}

const isAtEnd = () =>
  conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < NEAR_PX;
const goToEnd = () => conversation.scrollTo(0, conversation.scrollHeight);

// For screen readers: whole sentences as they come, not single tokens.

const spoken = document.getElementById("spoken");
let unspoken = "";

const say = (words) => show("said", words);

function speak(text) {
  unspoken += text;
  const end = Math.max(...[". ", "! ", "? ", ": ", "\n"].map((mark) => unspoken.lastIndexOf(mark)));
  if (end < 0) return;
  addSpoken(unspoken.slice(0, end + 1));
  unspoken = unspoken.slice(end + 1);
}

function addSpoken(text) {
  const words = document.createElement("p");
  words.textContent = text;
  spoken.append(words);
}

function finishSpeaking(words) {
  if (unspoken.trim()) addSpoken(unspoken);
  unspoken = "";
  say(words);
  // It stands in the conversation too; nobody should read it twice.
  setTimeout(() => running ?? spoken.replaceChildren(), 5000);
}

// Firefox does not size a text field by its content yet.
function sizeQuestion() {
  if (CSS.supports("field-sizing", "content")) return;
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight + 2}px`;
}

document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (running !== null || text === "") return;
  question.value = "";
  sizeQuestion();
  answer(text);
});
question.addEventListener("input", sizeQuestion);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  event.target.form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
document.getElementById("stop").addEventListener("click", () => running?.abort());
document.getElementById("new").addEventListener("click", startAnew);
colours.addEventListener("change", () => turns.classList.toggle("plain", !colours.checked));

async function start() {
  try {
    const model = (await (await ask("/v1/models")).json()).data[0].id;
    show("model", model);
    document.title = `${model} · hat`;
  } catch {
    // Whether the device answers is seen from the link.
  }
  question.focus();
  await watchLink();
}

start();
