// Ollama's JavaScript package.
import { Ollama } from "ollama";

const model = process.argv[2];
const client = new Ollama({
  host: process.env.OPENAI_BASE_URL.replace(/\/v1$/, ""),
  headers: { Authorization: `Bearer ${process.env.OPENAI_API_KEY}` },
});
let messages = [{ role: "user", content: "Who wrote Emma?" }];
console.log("first:", (await client.chat({ model, messages })).message.content);

const parts = [];
for await (const part of await client.chat({ model, messages, stream: true })) {
  if (part.message.content) parts.push(part.message.content);
}
console.log("stream:", parts.length, parts.join(""));

const number = { type: "integer" };
const parameters = { type: "object", properties: { a: number, b: number } };
const tools = [{ type: "function", function: { name: "add", description: "adds", parameters } }];
messages = [{ role: "user", content: "Add 1234 and 4321 with the tool." }];
const asked = await client.chat({ model, messages, tools });
const { a, b } = asked.message.tool_calls[0].function.arguments;
messages.push(asked.message, { role: "tool", tool_name: "add", content: String(a + b) });
console.log("tool:", (await client.chat({ model, messages, tools })).message.content);
