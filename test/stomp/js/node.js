// Plays the scenarios in Node: node node.js URL LOGIN PASSCODE. It prints a JSON list of
// the failures.
import WebSocket from "ws";

globalThis.WebSocket = WebSocket;
const [url, login, passcode] = process.argv.slice(2);
const { run } = await import("./clients.js");
console.log(JSON.stringify(await run({ url, login, passcode })));
process.exit(); // connections of failed scenarios may be open
