// Registers a service, finds another one, and calls it through the mesh: with the `consul` package, as against Consul
// itself.
//
// node client.js NAME ADDRESS PORT PEER
"use strict";

const http = require("http");
const Consul = require("consul");

const [name, address, port, peer] = process.argv.slice(2);
const registry = new Consul({ host: "127.0.0.1", port: 15000 });
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const say = (...words) => console.log(...words);
let isLeaving = false;

async function register() {
  await registry.agent.service.register({
    name,
    id: `${name}-1`,
    address,
    port: Number(port),
    tags: ["example"],
    meta: { language: "node" },
    check: { ttl: "5s", deregistercriticalserviceafter: "1m" },
  });
  say("registered", `${name}-1`);
}

// Says that all is well, also while the registry is away for a moment; registers anew should it have forgotten.
async function beat() {
  for (;;) {
    try {
      await registry.agent.check.pass({ id: `service:${name}-1`, note: "all is well" });
    } catch (error) {
      say("registry:", error.message);
      if (error.statusCode === 404 && !isLeaving) await register().catch((again) => say("registry:", again.message));
    }
    await sleep(1000);
  }
}

// Waits until the peer is well; a blocking query answers as soon as that changes.
function find() {
  return new Promise((resolve) => {
    const watch = registry.watch({
      method: registry.health.service,
      options: { service: peer, passing: true, wait: "5s" },
    });
    watch.on("change", (found) => {
      if (found.length === 0) return;
      watch.end();
      say("found", found[0].Service.ID);
      const virtual = found[0].Service.TaggedAddresses.virtual;
      resolve(`http://${virtual.Address}:${virtual.Port}/`);
    });
    watch.on("error", (error) => say("registry:", error.message));
  });
}

function call(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { timeout: 5000 }, (response) => {
      let body = "";
      response.on("data", (part) => (body += part));
      response.on("end", () => resolve(body));
    });
    request.on("timeout", () => request.destroy(new Error("timeout")));
    request.on("error", reject);
  });
}

process.on("SIGTERM", async () => {
  isLeaving = true;
  await registry.agent.service.deregister(`${name}-1`);
  say("deregistered");
  process.exit(0);
});

async function main() {
  http.createServer((_, response) => response.end(`this is ${name}`)).listen(Number(port), address);
  await register();
  beat();
  const url = await find();
  for (;;) {
    await call(url).then(
      (body) => say("answer:", body),
      (error) => say("call failed:", error.message),
    );
    await sleep(200);
  }
}

main();
