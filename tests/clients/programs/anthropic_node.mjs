// Anthropic's JavaScript package.
import Anthropic from "@anthropic-ai/sdk";

const model = process.argv[2];
const client = new Anthropic({
  baseURL: process.env.OPENAI_BASE_URL.replace(/\/v1$/, ""),
  apiKey: process.env.OPENAI_API_KEY,
});
const max_tokens = 100;
let messages = [{ role: "user", content: "Who wrote Emma?" }];
const answer = await client.messages.create({ model, max_tokens, messages });
console.log("first:", answer.content[0].text);

const parts = [];
await client.messages
  .stream({ model, max_tokens, messages })
  .on("text", (text) => parts.push(text))
  .finalMessage();
console.log("stream:", parts.length, parts.join(""));

const number = { type: "integer" };
const input_schema = { type: "object", properties: { a: number, b: number } };
const tools = [{ name: "add", description: "adds", input_schema }];
messages = [{ role: "user", content: "Add 1234 and 4321 with the tool." }];
const asked = await client.messages.create({ model, max_tokens, messages, tools });
const call = asked.content.find((block) => block.type === "tool_use");
const content = String(call.input.a + call.input.b);
messages.push({ role: "assistant", content: asked.content });
messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content }] });
const second = await client.messages.create({ model, max_tokens, messages, tools });
console.log("tool:", second.content[0].text);
