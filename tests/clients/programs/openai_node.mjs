// OpenAI's JavaScript package.
import OpenAI from "openai";

const model = process.argv[2];
const client = new OpenAI();
const messages = [{ role: "user", content: "Who wrote Emma?" }];
const answer = await client.chat.completions.create({ model, messages });
console.log("first:", answer.choices[0].message.content);

const parts = [];
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  if (chunk.choices[0]?.delta?.content) parts.push(chunk.choices[0].delta.content);
}
console.log("stream:", parts.length, parts.join(""));

const number = { type: "integer" };
const parameters = { type: "object", properties: { a: number, b: number }, required: ["a", "b"] };
const runner = client.chat.completions.runTools({
  model,
  messages: [{ role: "user", content: "Add 1234 and 4321 with the tool." }],
  tools: [
    {
      type: "function",
      function: {
        name: "add",
        description: "adds",
        parameters,
        parse: JSON.parse,
        function: ({ a, b }) => String(a + b),
      },
    },
  ],
});
console.log("tool:", await runner.finalContent());
