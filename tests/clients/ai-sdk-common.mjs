// What both of the ai-sdk's providers for this protocol are driven by.
import { embed, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { CITIES, MODEL, QUESTION, UNKNOWN, WEATHER, capability, inCity, refused } from "./reporting.mjs";

const place = z.object({ city: z.enum(CITIES) });
const weather = tool({ description: "The weather of a city.", inputSchema: place, execute: async () => WEATHER });
const asked = { role: "user", content: QUESTION };

/** Drive `model(name)` and `embedding(name)` of one provider. */
export async function drive(model, embedding) {
  const options = { model: model(MODEL), maxOutputTokens: 40, maxRetries: 0 };
  const alone = { openai: { parallelToolCalls: false }, platform: { parallel_tool_calls: false } };
  const required = { ...options, providerOptions: alone, tools: { weather }, toolChoice: "required", prompt: QUESTION };

  await capability("chat", async () => (await generateText({ ...options, prompt: QUESTION })).text);

  await capability("second turn", async () => {
    const first = await generateText({ ...options, messages: [asked] });
    const messages = [asked, ...first.response.messages, { role: "user", content: "And in Rome?" }];
    return (await generateText({ ...options, messages })).text;
  });

  const read = async (request) => {
    let text = "";
    const result = streamText({ ...request, onError: () => {} });
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "text-delta") text += part.text ?? part.delta ?? "";
    }
    return { text, result };
  };

  await capability("stream", async () => (await read({ ...options, prompt: QUESTION })).text);

  await capability("usage in stream", async () => {
    const used = await (await read({ ...options, prompt: QUESTION })).result.usage;
    return used.outputTokens && used;
  });

  await capability("tools", async () => {
    const first = await generateText({ ...required, stopWhen: stepCountIs(1) });
    inCity(first.toolCalls[0].input);
    const messages = [asked, ...first.response.messages];
    await generateText({ ...options, messages, tools: { weather } });
    return first.toolCalls[0];
  });

  await capability("tools streamed", async () => {
    const { result } = await read({ ...required, stopWhen: stepCountIs(1) });
    const calls = await result.toolCalls;
    return inCity(calls[0].input) && calls[0];
  });

  await capability("JSON schema", async () => (await generateObject({ ...options, prompt: QUESTION, schema: place })).object);

  await capability("embeddings", async () => {
    return (await embed({ model: embedding(MODEL), value: "A cat.", maxRetries: 0 })).embedding.length;
  });

  await capability("errors", () => refused(() => generateText({ ...options, model: model(UNKNOWN), prompt: QUESTION })));

  await capability("parallel", async () => {
    const answers = await Promise.all([1, 2, 3, 4].map(() => generateText({ ...options, prompt: QUESTION })));
    return answers.every((answer) => answer.text) && "4 answers";
  });

  return options;
}
