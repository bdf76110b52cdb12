// node clients.mjs URL: the clients of Node, each with its ordinary use.
// It wants `npm install openai zod ai @ai-sdk/openai-compatible` where it is run.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const url = process.argv[2] ?? "http://127.0.0.1:8000/v1";
const here = createRequire(pathToFileURL(process.cwd() + "/"));
const load = (name) => import(pathToFileURL(here.resolve(name)).href);
const { default: OpenAI } = await load("openai");
const { zodResponseFormat } = await load("openai/helpers/zod");
const { z } = await load("zod");
const { generateText, generateObject, streamText, tool, stepCountIs } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

const client = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0, timeout: 300_000 });
const model = (await client.models.list()).data[0].id;
const provider = createOpenAICompatible({
  name: "hat", baseURL: url, apiKey: "unused", supportsStructuredOutputs: true,
});
const trip = z.object({ city: z.string(), days: z.number().int() });
const messages = [{ role: "user", content: "What is the weather in Rome for 2 days? Use the tool." }];
const weather = async ({ city }) => `It is 21 degrees in ${city}.`;
const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
};

const cases = {
  "openai chat": async () =>
    (await client.chat.completions.create({ model, messages, max_tokens: 20 })).choices[0].message.content,
  "openai runTools": async () => {
    const called = { type: "function", function: { name: "get_weather", parameters, function: weather, parse: JSON.parse } };
    return client.chat.completions.runTools({ model, messages, tools: [called], max_tokens: 300 }).finalContent();
  },
  "openai runTools streamed": async () => {
    const called = { type: "function", function: { name: "get_weather", parameters, function: weather, parse: JSON.parse } };
    return client.chat.completions.runTools({ model, messages, tools: [called], stream: true, max_tokens: 300 }).finalContent();
  },
  "openai zodResponseFormat": async () => {
    const made = await client.chat.completions.parse({
      model, messages, max_tokens: 300, response_format: zodResponseFormat(trip, "trip"),
    });
    return JSON.stringify(trip.parse(made.choices[0].message.parsed));
  },
  "ai generateText": async () => (await generateText({ model: provider(model), prompt: "Hi", maxOutputTokens: 20 })).text,
  "ai generateObject": async () =>
    JSON.stringify((await generateObject({ model: provider(model), schema: trip, prompt: "Rome, 2 days", maxOutputTokens: 300 })).object),
  "ai tools": async () =>
    (await generateText({
      model: provider(model), messages, maxOutputTokens: 300, stopWhen: stepCountIs(3),
      tools: { get_weather: tool({ description: "The weather.", inputSchema: trip, execute: weather }) },
    })).text,
  "ai tools streamed": async () => {
    const stream = streamText({
      model: provider(model), messages, maxOutputTokens: 300, stopWhen: stepCountIs(3),
      tools: { get_weather: tool({ description: "The weather.", inputSchema: trip, execute: weather }) },
    });
    return stream.text;
  },
};

let failed = 0;
console.log("| case | result |\n|---|---|");
for (const [name, run] of Object.entries(cases)) {
  let told;
  try {
    told = `ok: ${String(await run()).replace(/\s+/g, " ").slice(0, 80)}`;
  } catch (error) {
    failed += 1;
    told = `FAILED: ${String(error).replace(/\s+/g, " ").slice(0, 200)}`;
  }
  console.log(`| ${name} | ${told.replaceAll("|", "/")} |`);
}
process.exit(failed > 0 ? 1 : 0);
