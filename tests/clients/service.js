// A back end that sends commands and reads their receipts: azure-iothub over AMQP.
'use strict';

const { Client } = require('azure-iothub');
const { AmqpWs } = require('azure-iothub/dist/amqp_ws.js');
const { Message } = require('azure-iot-common');
const { serve } = require('./lines.js');

let client;
const receipts = [];

function message(wanted) {
  const made = new Message(Buffer.from(wanted.body, 'base64'));
  for (const name of ['messageId', 'correlationId', 'userId', 'contentType', 'contentEncoding', 'ack']) {
    if (wanted[name] !== undefined) made[name] = wanted[name];
  }
  if (wanted.expiryMs !== undefined) made.expiryTimeUtc = wanted.expiryMs;
  for (const [name, value] of Object.entries(wanted.properties || {})) made.properties.add(name, value);
  return made;
}

serve({
  async open({ connectionString, webSockets }) {
    client = Client.fromConnectionString(connectionString, webSockets ? AmqpWs : undefined);
    await client.open();
  },

  // One command after the other, each awaited; the answer is the name of what each came to.
  async send({ device, messages }) {
    const results = [];
    for (const wanted of messages) {
      const { result } = await client.send(device, message(wanted));
      results.push(result.constructor.name);
    }
    return results;
  },

  // Receive receipts from now on; the package accepts every batch by itself.
  async listen() {
    const { result: receiver } = await client.getFeedbackReceiver();
    receiver.on('message', (batch) => {
      const records = JSON.parse(batch.getData().toString());
      receipts.push(...records.map((record) => ({ ...record, batch: records.length })));
    });
  },

  // What has come, once it is `count` receipts or the time is over.
  async receipts({ count, waitMs }) {
    const deadline = Date.now() + waitMs;
    while (receipts.length < count && Date.now() < deadline) await new Promise((done) => setTimeout(done, 5));
    return receipts.splice(0);
  },

  close: () => client.close().then(() => null),
});
