// A device over any transport of azure-iot-device, as an application uses it.
'use strict';

const { Client, Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { describe, serve } = require('./lines.js');

const transports = { Amqp, AmqpWs, Mqtt, MqttWs };
const clients = new Map();

function message(wanted) {
  const made = new Message(Buffer.from(wanted.body, 'base64'));
  for (const name of ['messageId', 'correlationId', 'userId', 'contentType', 'contentEncoding']) {
    if (wanted[name] !== undefined) made[name] = wanted[name];
  }
  for (const [name, value] of Object.entries(wanted.properties || {})) made.properties.add(name, value);
  return made;
}

serve({
  async open({ device, connectionString, ca, transport }) {
    const client = Client.fromConnectionString(connectionString, transports[transport]);
    await client.setOptions({ ca });
    const state = { client, ended: null, commands: [] };
    client.on('disconnect', (error) => { state.ended = error ? describe(error) : {}; });
    client.on('error', (error) => { state.ended = describe(error); });
    await client.open();
    clients.set(device, state);
  },

  // One message after the other without waiting in between; the answer is the name of what each came to.
  async send({ device, messages }) {
    const { client } = clients.get(device);
    const results = await Promise.all(messages.map((wanted) => client.sendEvent(message(wanted))));
    return results.map((result) => result.constructor.name);
  },

  // Receive commands from now on, and complete each.
  async listen({ device }) {
    const state = clients.get(device);
    state.client.on('message', (command) => {
      state.commands.push({
        body: Buffer.from(command.data).toString('base64'),
        messageId: command.messageId,
        properties: Object.fromEntries(command.properties.propertyList.map(({ key, value }) => [key, value])),
      });
      state.client.complete(command).catch((error) => { state.ended = describe(error); });
    });
  },

  // What has come, once it is `count` commands or the time is over.
  async commands({ device, count, waitMs }) {
    const state = clients.get(device);
    const deadline = Date.now() + waitMs;
    while (state.commands.length < count && Date.now() < deadline) await new Promise((done) => setTimeout(done, 5));
    return state.commands.splice(0);
  },

  async close({ device }) {
    await clients.get(device).client.close();
    clients.delete(device);
  },
});
