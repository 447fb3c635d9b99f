// @ai-sdk/openai: `/v1/responses` is its default, `provider.chat(…)` is the older protocol.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";
import { drive } from "../ai-sdk-common.mjs";
import { BASE_URL, KEY, MODEL, QUESTION, capability } from "../reporting.mjs";

const provider = createOpenAI({ baseURL: BASE_URL, apiKey: KEY });
await drive((name) => provider.chat(name), (name) => provider.embedding(name));

await capability("responses", async () => {
  const options = { model: provider(MODEL), maxOutputTokens: 30, maxRetries: 0 };
  const asked = { role: "user", content: QUESTION };
  const first = await generateText({ ...options, messages: [asked] });
  const messages = [asked, ...first.response.messages, { role: "user", content: "And in Rome?" }];
  return (await generateText({ ...options, messages })).text;
});
