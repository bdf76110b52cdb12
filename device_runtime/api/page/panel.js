// Beside the conversation: the link as it is now, and how the last answer was made.

const LOOK_EVERY_MS = 2000;

const show = (id, words) => {
  const place = document.getElementById(id);
  // A text that stays is left alone, so that nobody's selection is lost.
  if (place.textContent !== words) place.textContent = words;
};

async function lookAtLink() {
  let samples = new Map();
  let reason = "the device does not answer";
  try {
    samples = await readMetrics();
    reason = samples.get("hat_link_connected") === 1 ? null : await notReady();
  } catch (error) {
    if (error instanceof Refused) reason = error.message;
  }
  const delay = timeWords(samples.get("hat_link_delay_seconds"));
  const state = reason === null ? "up" : "down";
  document.getElementById("link").dataset.state = state;
  const connected = delay === NONE ? "connected" : `connected · ${delay}`;
  show("link-words", reason === null ? connected : "no cloud");
  document.getElementById("state").hidden = reason === null;
  show("state", reason === null ? "" : sentence(reason));
  show("delay", delay);
  show("up", rateWords(samples.get("hat_link_uplink_bytes_per_second")));
  show("down", rateWords(samples.get("hat_link_downlink_bytes_per_second")));
}

async function watchLink() {
  for (;;) {
    if (document.visibilityState === "visible") await lookAtLink();
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
}

// What is known of an answer, from the first event to the last.
class Progress {
  constructor() {
    this.beganMs = performance.now();
    this.firstMs = null;
    this.lastMs = null;
    this.numFirst = 0;
    this.numTokens = 0;
    this.rounds = 0;
    this.drafted = 0;
    this.accepted = 0;
    this.ending = null;
    this.isAlone = false;
    this.usage = null;
    this.figures = null;
  }

  take(event) {
    if (event.usage) {
      this.usage = event.usage;
      this.numTokens = event.usage.completion_tokens;
    }
    if (event.choices.length === 0) {
      if (event.hat) this.finish(event.hat);
      return;
    }
    this.ending = event.choices[0].finish_reason;
    if (event.hat?.answered_by === "draft") this.isAlone = true;
    this.lastMs = performance.now();
    if (this.firstMs === null) {
      this.firstMs = this.lastMs;
      this.numFirst = this.numTokens;
    }
    this.rounds += event.hat?.rounds ?? 0;
    this.drafted += event.hat?.drafted_tokens ?? 0;
    this.accepted += event.hat?.accepted_tokens ?? 0;
  }

  // The device's own figures replace what was seen from here.
  finish(figures) {
    this.figures = figures;
    this.rounds = figures.rounds;
    this.drafted = figures.drafted_tokens;
    this.accepted = figures.accepted_tokens;
  }

  get firstS() {
    if (this.figures?.first_token_s) return this.figures.first_token_s;
    return this.firstMs === null ? NaN : (this.firstMs - this.beganMs) / 1000;
  }

  // Tokens after the first, over the time that they took.
  get tokensPerSecond() {
    if (this.figures?.first_token_s && this.numTokens > 1) {
      return (this.numTokens - 1) / (this.figures.seconds.total - this.figures.first_token_s);
    }
    const seconds = (this.lastMs - this.firstMs) / 1000;
    return seconds > 0 ? (this.numTokens - this.numFirst) / seconds : NaN;
  }

  get words() {
    const parts = [plural(this.numTokens, "token")];
    if (this.isAlone) parts.unshift("by the draft model alone: no cloud");
    if (isKnown(this.tokensPerSecond)) parts.push(`${speedWords(this.tokensPerSecond)} per second`);
    parts.push(`first after ${timeWords(this.firstS)}`, plural(this.rounds, "round"));
    // Lines break between the parts.
    return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
  }
}

function showProgress(progress) {
  const { drafted, accepted, figures, numTokens, rounds, usage } = progress;
  show("speed", speedWords(progress.tokensPerSecond));
  show("first", timeWords(progress.firstS));
  show("tokens", countWords(numTokens || NaN));
  const perRound = rounds ? `, ${((numTokens - progress.numFirst) / rounds).toFixed(2)} tokens each` : "";
  show("rounds", countWords(rounds || NaN) + perRound);
  const reused = figures?.reused_prompt_tokens;
  show("reused", figures ? `${countWords(reused)} of ${countWords(usage?.prompt_tokens)}` : NONE);
  show("bytes", figures ? `${bytesWords(figures.bytes_up)}, ${bytesWords(figures.bytes_down)}` : NONE);
  showDrafts(drafted, accepted);
  const speed = `${speedWords(progress.tokensPerSecond)} tokens per second`;
  show("panel-words", `${speed} · first after ${timeWords(progress.firstS)}`);
}

function showDrafts(drafted, accepted) {
  const share = drafted ? accepted / drafted : 0;
  const words = `${countWords(accepted)} of ${countWords(drafted)} drafted tokens accepted`;
  show("drafts", drafted ? `${words}, ${(100 * share).toFixed(0)} %` : "Nothing drafted");
  document.getElementById("accepted-bar").style.width = `${100 * share}%`;
}

const panelButton = document.getElementById("panel-button");
panelButton.addEventListener("click", () => {
  const isOpen = panelButton.getAttribute("aria-expanded") === "true";
  const isFollowed = isAtEnd();
  panelButton.setAttribute("aria-expanded", String(!isOpen));
  if (isFollowed) goToEnd();
});
