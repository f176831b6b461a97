// A back end that manages devices: azure-iothub over the REST service API.
'use strict';

const { Registry } = require('azure-iothub');
const { serve } = require('./lines.js');

let registry;

serve({
  open({ connectionString }) { registry = Registry.fromConnectionString(connectionString); },
  create: ({ device }) => registry.create(device).then((result) => result.responseBody),
  read: ({ deviceId }) => registry.get(deviceId).then((result) => result.responseBody),
  update: ({ device }) => registry.update(device).then((result) => result.responseBody),
  remove: ({ deviceId }) => registry.delete(deviceId).then(() => null),
  list: () => registry.list().then((result) => result.responseBody),
});
