// A pump that obeys: node device.js <connection string> [--once]
'use strict';

const { Client, Message } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');

async function main() {
  const client = Client.fromConnectionString(process.argv[2], Amqp);
  const isDone = new Set();

  client.on('message', async (command) => {
    const id = command.correlationId || command.messageId;
    const text = command.getData().toString();
    if (text !== 'open' && text !== 'close') {
      // It will never make sense: the back end is told Rejected.
      await client.reject(command);
      return;
    }
    // A command can come twice. Its correlation id tells; what it asks for is done once.
    if (!isDone.has(id)) {
      isDone.add(id);
      console.log(`${text} (${id})`);
    }
    // The answer is telemetry with the command's correlation id. It is safe in the hub before the command is completed, so
    // that a crash in between repeats the command and never loses the answer.
    const answer = new Message(JSON.stringify({ valve: text }));
    answer.correlationId = id;
    await client.sendEvent(answer);
    await client.complete(command);
    if (process.argv.includes('--once')) {
      await client.close();
    }
  });
  await client.open();
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
