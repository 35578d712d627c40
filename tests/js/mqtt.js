// An MQTT.js client of acme: does what it may, and tries what it may not, over one transport.
"use strict";

const fs = require("node:fs");
const mqtt = require("mqtt");

const told = JSON.parse(process.argv[2]);

async function main() {
  const results = { heard: [], granted: [], refusals: [] };
  const client = await mqtt.connectAsync(`${told.transport}://localhost:${told.port}/mqtt`, {
    protocolVersion: told.version,
    clientId: told.client_id,
    username: "any",
    password: told.token,
    ca: [fs.readFileSync(told.certificate)],
    family: 4,
    reconnectPeriod: 0,
    connectTimeout: 20_000,
  });
  const waiting = [];
  client.on("error", () => {});
  client.on("message", (topic, payload) => {
    results.heard.push([topic, payload.toString()]);
    waiting.shift()?.();
  });
  const messages = async (count) => {
    while (results.heard.length < count) {
      await new Promise((resolve) => waiting.push(resolve));
    }
  };
  for (const filter of told.filters) {
    const code = await new Promise((resolve) => {
      client.subscribe(filter, { qos: 2 }, (error, granted, packet) => {
        resolve(packet ? packet.granted[0] : String(error));
      });
    });
    results.granted.push(code);
  }
  console.log("ready");
  await messages(1);
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(told.own, `own ${qos}`, { qos });
    await messages(2 + qos);
  }
  if (told.version === 5) {
    for (const qos of [1, 2]) {
      try {
        await client.publishAsync(told.foreign, "attack", { qos });
        results.refusals.push("taken");
      } catch (error) {
        results.refusals.push(error.code ?? String(error));
      }
    }
    await client.endAsync();
  } else {
    const closed = new Promise((resolve) => client.once("close", resolve));
    let acknowledged = false;
    client.publish(told.foreign, "attack", { qos: 1 }, (error) => {
      acknowledged = !error;
    });
    await closed;
    results.cut = true;
    results.acknowledged = acknowledged;
  }
  console.log(JSON.stringify(results));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
