// @ai-sdk/openai-compatible.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { drive } from "../ai-sdk-common.mjs";
import { BASE_URL, KEY } from "../reporting.mjs";

const options = { name: "platform", baseURL: BASE_URL, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true };
const provider = createOpenAICompatible(options);
await drive((name) => provider(name), (name) => provider.textEmbeddingModel?.(name) ?? provider.embeddingModel(name));
