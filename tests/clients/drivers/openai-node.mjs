// OpenAI's own SDK for Node.
import OpenAI from "openai";
import { BASE_URL, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, inCity, refused } from "../reporting.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: KEY, maxRetries: 0 });
const tools = [{ type: "function", function: { name: "weather", parameters: PLACE } }];
const asked = { role: "user", content: QUESTION };
const short = { model: MODEL, max_completion_tokens: 40 };
const ask = (messages, options = {}) => client.chat.completions.create({ ...short, messages, ...options });

await capability("chat", async () => (await ask([asked])).choices[0].message.content);

await capability("second turn", async () => {
  const messages = [asked];
  messages.push((await ask(messages)).choices[0].message);
  messages.push({ role: "user", content: "And in Rome?" });
  return (await ask(messages)).choices[0].message.content;
});

await capability("stream", async () => {
  let text = "";
  for await (const chunk of await ask([asked], { stream: true })) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
});

await capability("usage in stream", async () => {
  let last;
  for await (last of await ask([asked], { stream: true, stream_options: { include_usage: true } }));
  return last.usage.completion_tokens && last.usage;
});

await capability("tools", async () => {
  const messages = [asked];
  const answer = (await ask(messages, { tools, tool_choice: "required" })).choices[0].message;
  messages.push(answer);
  for (const call of answer.tool_calls) {
    inCity(call.function.arguments);
    messages.push({ role: "tool", tool_call_id: call.id, content: WEATHER });
  }
  await ask(messages, { tools });
  return answer.tool_calls[0].function;
});

await capability("tools streamed", async () => {
  const stream = client.chat.completions.stream({ ...short, messages: [asked], tools, tool_choice: "required" });
  const call = (await stream.finalChatCompletion()).choices[0].message.tool_calls[0];
  return inCity(call.function.arguments) && call.function;
});

await capability("JSON schema", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "place", schema: PLACE, strict: true } };
  return inCity((await ask([asked], { response_format })).choices[0].message.content);
});

await capability("embeddings", async () => {
  return (await client.embeddings.create({ model: MODEL, input: ["A cat."] })).data[0].embedding.length;
});

await capability("responses", async () => {
  const options = { model: MODEL, max_output_tokens: 30 };
  const first = await client.responses.create({ ...options, input: QUESTION });
  const input = [asked, ...first.output, { role: "user", content: "And in Rome?" }];
  let last;
  for await (last of await client.responses.create({ ...options, input, stream: true }));
  if (!["response.completed", "response.incomplete"].includes(last.type)) throw new Error(last.type);
  const next = { ...options, input: "And in Rome?", previous_response_id: first.id };
  return (await client.responses.create(next)).output_text;
});

await capability("options", async () => {
  const options = { reasoning_effort: "low", store: true, metadata: { a: "b" }, seed: 1, frequency_penalty: 0.5 };
  return (await ask([asked], options)).choices[0].message.content;
});

await capability("errors", () => refused(() => ask([asked], { model: UNKNOWN }), (e) => e instanceof OpenAI.NotFoundError));

await capability("parallel", async () => {
  const answers = await Promise.all([1, 2, 3, 4].map(() => ask([asked])));
  return answers.every((answer) => answer.choices[0].message.content) && "4 answers";
});
