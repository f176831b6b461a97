// A back end that commands devices and keeps the commands' state in a file of its own:
//   node back-end.js <state file> <service connection string> <event hub connection string> [<device> <command> ...]
// It begins the commands that are given, goes on with those of earlier runs, and ends when each is done or has failed.
'use strict';

const { randomUUID } = require('crypto');
const fs = require('fs');
const { Client } = require('azure-iothub');
const { Message } = require('azure-iot-common');
const { EventHubConsumerClient } = require('@azure/event-hubs');

const [file, serviceString, eventHubString, ...wanted] = process.argv.slice(2);
const TTL_MS = Number(process.env.TTL_MS || 60000);
const ATTEMPTS_MAX = 3;

// The state. It is on disk before anything that it speaks of happens.
const state = fs.existsSync(file)
  ? JSON.parse(fs.readFileSync(file, 'utf8'))
  : { answersFrom: Date.now(), commands: {} };

function save() {
  const next = `${file}.next`;
  const handle = fs.openSync(next, 'w');
  fs.writeSync(handle, JSON.stringify(state, null, 2));
  fs.fsyncSync(handle);
  fs.closeSync(handle);
  fs.renameSync(next, file);
}

function become(id, changes) {
  Object.assign(state.commands[id], changes);
  save();
  const { device, body, step, attempt } = state.commands[id];
  console.log(`${step} ${device} ${body} (attempt ${attempt}, ${id})`);
}

const client = Client.fromConnectionString(serviceString);

// Send the command, again under the same correlation id: the device knows it by that, the receipts know the attempt by its
// message id.
async function send(id) {
  const { device, body, attempt } = state.commands[id];
  const message = new Message(body);
  message.messageId = `${id}/${attempt}`;
  message.correlationId = id;
  message.ack = 'full';
  message.expiryTimeUtc = Date.now() + TTL_MS; // a number: the package cannot write a Date
  await client.send(device, message);
  // The answer may have overtaken this line.
  if (state.commands[id].step === 'sending') become(id, { step: 'sent' });
}

async function retry(id, why) {
  const command = state.commands[id];
  if (command.attempt >= ATTEMPTS_MAX) return become(id, { step: 'failed', why });
  become(id, { step: 'sending', attempt: command.attempt + 1, why });
  await send(id);
}

// What became of an attempt.
async function handleReceipt({ originalMessageId, statusCode }) {
  const [id, attempt] = originalMessageId.split('/');
  const command = state.commands[id];
  // Another's, one of an earlier attempt, or of a command that has its answer.
  if (!command || Number(attempt) !== command.attempt || ['done', 'failed'].includes(command.step)) return;
  switch (statusCode) {
    case 'Success':
      return become(id, { step: 'delivered' });
    case 'Rejected':
      return become(id, { step: 'failed', why: statusCode });
    default:
      // Expired, DeliveryCountExceeded, Purged: it was not carried out.
      await retry(id, statusCode);
  }
}

// A device's answer: telemetry with the correlation id of a command.
function handleEvent(event) {
  const command = state.commands[event.correlationId];
  const device = event.systemProperties['iothub-connection-device-id'];
  if (command && command.device === device && command.step !== 'done') {
    become(event.correlationId, { step: 'done', answer: event.body });
  }
}

async function main() {
  await client.open();
  client.on('disconnect', () => fail(new Error('the hub is gone; start again')));
  const { result: receipts } = await client.getFeedbackReceiver();
  receipts.on('error', fail);
  receipts.on('message', (batch) => {
    for (const receipt of JSON.parse(batch.getData().toString())) handleReceipt(receipt).catch(fail);
  });
  const events = new EventHubConsumerClient('$Default', eventHubString);
  events.subscribe(
    { processEvents: async (batch) => batch.forEach(handleEvent), processError: async (error) => fail(error) },
    { startPosition: { enqueuedOn: new Date(state.answersFrom) } },
  );

  for (let index = 0; index + 1 < wanted.length; index += 2) {
    const id = randomUUID();
    state.commands[id] = { device: wanted[index], body: wanted[index + 1], attempt: 1 };
    become(id, { step: 'sending' });
  }
  // Those of an earlier run, too: whether such a command went out is not known, so it goes out (again).
  for (const id of Object.keys(state.commands)) {
    if (state.commands[id].step === 'sending') await send(id);
  }

  const isOver = ({ step }) => step === 'done' || step === 'failed';
  while (!Object.values(state.commands).every(isOver)) await new Promise((next) => setTimeout(next, 100));
  client.removeAllListeners('disconnect');
  await events.close();
  await client.close();
  process.exit(Object.values(state.commands).every(({ step }) => step === 'done') ? 0 : 2);
}

function fail(error) {
  console.error(error.message);
  process.exit(1);
}

main().catch(fail);
