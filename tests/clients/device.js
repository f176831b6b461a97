// A device over any transport of azure-iot-device, as an application uses it.
'use strict';

const { Client, Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Http } = require('azure-iot-device-http');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { describe, serve } = require('./lines.js');

const transports = { Amqp, AmqpWs, Http, Mqtt, MqttWs };
const clients = new Map();

function message(wanted) {
  const made = new Message(Buffer.from(wanted.body, 'base64'));
  for (const name of ['messageId', 'correlationId', 'userId', 'to', 'contentType', 'contentEncoding', 'ack', 'interfaceId']) {
    if (wanted[name] !== undefined) made[name] = wanted[name];
  }
  if (wanted.expiryMs !== undefined) made.expiryTimeUtc = wanted.expiryMs;
  for (const [name, value] of Object.entries(wanted.properties || {})) made.properties.add(name, value);
  return made;
}

serve({
  async open({ device, connectionString, ca, transport }) {
    const client = Client.fromConnectionString(connectionString, transports[transport || 'Amqp']);
    // Over HTTPS the package never says that it has taken this option; it trusts what Node trusts.
    if (transport !== 'Http') await client.setOptions({ ca });
    const state = { client, ended: null, commands: [], held: new Map() };
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

  async sendBatch({ device, messages }) {
    const { client } = clients.get(device);
    return (await client.sendEventBatch(messages.map(message))).constructor.name;
  },

  // Receive commands from now on; with `completes`, say of each at once that it is done.
  async listen({ device, completes }) {
    const state = clients.get(device);
    state.client.on('message', (command) => {
      state.commands.push(command);
      if (completes) state.client.complete(command).catch((error) => { state.ended = describe(error); });
    });
  },

  // What has come, once it is `count` commands or the time is over. Each is kept until it is settled by its place in all
  // that ever came.
  async commands({ device, count, waitMs }) {
    const state = clients.get(device);
    const deadline = Date.now() + waitMs;
    while (state.commands.length < count && Date.now() < deadline) await new Promise((done) => setTimeout(done, 5));
    return state.commands.splice(0).map((command) => {
      const place = state.held.size;
      state.held.set(place, command);
      return {
        place,
        body: Buffer.from(command.data).toString('base64'),
        messageId: command.messageId,
        correlationId: command.correlationId,
        to: command.to,
        expiryMs: command.expiryTimeUtc === undefined ? undefined : new Date(command.expiryTimeUtc).getTime(),
        ack: command.ack,
        properties: Object.fromEntries(command.properties.propertyList.map(({ key, value }) => [key, value])),
        annotations: command.transportObj?.message_annotations,
      };
    });
  },

  // `how` is complete, abandon or reject.
  async settle({ device, place, how }) {
    const state = clients.get(device);
    await state.client[how](state.held.get(place));
  },

  // `count` messages with a running number as body and property, at most `window` of them unanswered.
  async sendMany({ device, count, window }) {
    const { client } = clients.get(device);
    let next = 0;
    async function worker() {
      while (next < count) {
        const number = next++;
        const many = new Message(Buffer.from(`event ${number}`));
        many.properties.add('number', String(number));
        await client.sendEvent(many);
      }
    }
    await Promise.all(Array.from({ length: window }, worker));
    return next;
  },

  // Send numbered messages from now on, one after the other with a pause, until told to stop: what is not acknowledged is counted and
  // sent again under its number, as an application would.
  async sendOn({ device, pauseMs }) {
    const state = clients.get(device);
    const sending = { acknowledged: 0, failed: 0, stops: false };
    state.sending = sending;
    sending.done = (async () => {
      while (!sending.stops) {
        const numbered = new Message(Buffer.from(`event ${sending.acknowledged}`));
        await state.client.sendEvent(numbered).then(() => { sending.acknowledged += 1; }, () => { sending.failed += 1; });
        await new Promise((done) => setTimeout(done, pauseMs));
      }
    })();
  },

  // How many have been acknowledged so far.
  async acknowledged({ device }) {
    return clients.get(device).sending.acknowledged;
  },

  async stopSending({ device }) {
    const { sending } = clients.get(device);
    sending.stops = true;
    await sending.done;
    return sending.acknowledged;
  },

  // The next command, settled as `settle` says: complete, abandon or reject.
  async command({ device, settle, waitMs }) {
    const { client, commands } = clients.get(device);
    const deadline = Date.now() + waitMs;
    // Once: what a poll brings while nobody listens would stay locked for a minute.
    if (client.listenerCount('message') === 0) client.on('message', (received) => commands.push(received));
    while (commands.length === 0 && Date.now() < deadline) await new Promise((done) => setTimeout(done, 10));
    const received = commands.shift();
    if (!received) return null;
    const result = await client[settle](received);
    const names = Array.from({ length: received.properties.count() }, (_, index) => received.properties.getItem(index));
    return {
      body: received.data.toString(),
      messageId: received.messageId,
      correlationId: received.correlationId,
      to: received.to,
      properties: Object.fromEntries(names.map(({ key, value }) => [key, value])),
      result: result.constructor.name,
    };
  },

  // What the hub does not have: a twin.
  async twin({ device }) {
    return (await clients.get(device).client.getTwin()).properties;
  },

  // And calls of methods.
  async methods({ device }) {
    clients.get(device).client.onDeviceMethod('act', () => {});
  },

  // Why the hub ended it, once it has.
  async ended({ device, waitMs }) {
    const state = clients.get(device);
    const deadline = Date.now() + waitMs;
    while (state.ended === null && Date.now() < deadline) await new Promise((done) => setTimeout(done, 10));
    return state.ended;
  },

  async close({ device }) {
    await clients.get(device).client.close();
    clients.delete(device);
  },
});
