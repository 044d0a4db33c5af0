// The AI SDK, with its provider for servers like OpenAI's.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "hpc-serve",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
});
const model = provider(process.argv[2]);
console.log("first:", (await generateText({ model, prompt: "Who wrote Emma?" })).text);

const parts = [];
for await (const part of streamText({ model, prompt: "Who wrote Emma?" }).textStream) {
  parts.push(part);
}
console.log("stream:", parts.length, parts.join(""));

const add = tool({
  description: "adds",
  inputSchema: z.object({ a: z.number(), b: z.number() }),
  execute: async ({ a, b }) => a + b,
});
const prompt = "Add 1234 and 4321 with the tool.";
const answer = await generateText({ model, prompt, tools: { add }, stopWhen: stepCountIs(3) });
console.log("tool:", answer.text);
