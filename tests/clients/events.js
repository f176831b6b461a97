// A stream processor: @azure/event-hubs, as an application uses it.
'use strict';

const { EventHubConsumerClient } = require('@azure/event-hubs');
const { describe, serve } = require('./lines.js');

let client;
const readers = new Map();

function plain(value) {
  if (value instanceof Date) return { date: value.getTime() };
  if (Buffer.isBuffer(value)) return { bytes: value.toString('base64') };
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
  }
  return value === undefined ? null : value;
}

function told(event) {
  const raw = event.getRawAmqpMessage();
  return {
    body: event.body.toString('base64'),
    offset: event.offset,
    sequence: event.sequenceNumber,
    enqueuedMs: event.enqueuedTimeUtc.getTime(),
    properties: plain(event.properties || {}),
    system: plain(event.systemProperties || {}),
    messageId: plain(event.messageId),
    correlationId: plain(event.correlationId),
    contentType: plain(event.contentType),
    raw: plain(raw.properties || {}),
  };
}

async function until(holds, waitMs) {
  const deadline = Date.now() + waitMs;
  while (!holds() && Date.now() < deadline) await new Promise((done) => setTimeout(done, 5));
}

serve({
  open({ connectionString, group, webSockets }) {
    client = new EventHubConsumerClient(group, connectionString, {
      retryOptions: { maxRetries: 2, retryDelayInMs: 200 },
      webSocketOptions: webSockets ? { webSocket: require('ws') } : undefined,
    });
  },

  async hub() {
    const hub = await client.getEventHubProperties();
    return { name: hub.name, createdMs: hub.createdOn.getTime(), partitions: hub.partitionIds };
  },

  async partition({ partition }) {
    const found = await client.getPartitionProperties(partition);
    return {
      first: found.beginningSequenceNumber,
      last: found.lastEnqueuedSequenceNumber,
      offset: found.lastEnqueuedOffset,
      lastMs: found.lastEnqueuedOnUtc.getTime(),
      empty: found.isEmpty,
    };
  },

  // Start reading; what arrives waits for `take`.
  subscribe({ reader, partition, from, ownerLevel }) {
    const state = { events: [], errors: [], closed: null, last: null };
    const handlers = {
      async processEvents(events, context) {
        state.events.push(...events);
        if (context.lastEnqueuedEventProperties) state.last = { ...context.lastEnqueuedEventProperties };
      },
      async processError(error) { state.errors.push(describe(error)); },
      async processClose(reason) { state.closed = reason; },
    };
    state.subscription = client.subscribe(partition, handlers, {
      startPosition: from,
      ownerLevel,
      maxBatchSize: 200,
      maxWaitTimeInSeconds: 1,
      trackLastEnqueuedEventProperties: true,
      skipParsingBodyAsJson: true,
    });
    readers.set(reader, state);
  },

  // What has arrived, once it is `count` events or the time is over.
  async take({ reader, count, waitMs }) {
    const state = readers.get(reader);
    await until(() => state.events.length >= count || state.errors.length > 0, waitMs);
    return { events: state.events.splice(0).map(told), last: plain(state.last), errors: state.errors };
  },

  // How reading failed, once it has.
  async failed({ reader, waitMs }) {
    const state = readers.get(reader);
    await until(() => state.errors.length > 0, waitMs);
    return state.errors;
  },

  async unsubscribe({ reader }) {
    await readers.get(reader).subscription.close();
    readers.delete(reader);
  },

  close: () => client.close(),
});
