// A back end that manages devices: azure-iothub over the REST service API.
'use strict';

const { Registry } = require('azure-iothub');
const { serve } = require('./lines.js');

let registry;

const body = (result) => result.responseBody;

serve({
  open({ connectionString }) {
    registry = Registry.fromConnectionString(connectionString);
  },
  create: ({ device }) => registry.create(device).then(body),
  read: ({ deviceId }) => registry.get(deviceId).then(body),
  update: ({ device }) => registry.update(device).then(body),
  remove: ({ deviceId }) => registry.delete(deviceId).then(() => null),
  list: () => registry.list().then(body),
  addDevices: ({ devices }) => registry.addDevices(devices).then(body),
  updateDevices: ({ devices, force }) => registry.updateDevices(devices, force).then(body),
  removeDevices: ({ devices, force }) => registry.removeDevices(devices, force).then(body),
  // These three alone of all promises give the body itself.
  importJob: ({ input, output }) => registry.importDevicesFromBlob(input, output),
  exportJob: ({ output, excludeKeys }) => registry.exportDevicesToBlob(output, excludeKeys),
  getJob: ({ jobId }) => registry.getJob(jobId),
  listJobs: () => registry.listJobs().then(body),
  cancelJob: ({ jobId }) => registry.cancelJob(jobId).then(() => null),
  importJobByIdentity: ({ input, output, identity }) =>
    registry.importDevicesFromBlobByIdentity(input, output, identity),
  exportJobByIdentity: ({ output, excludeKeys, identity }) =>
    registry.exportDevicesToBlobByIdentity(output, excludeKeys, identity),
  configurations: () => registry.getConfigurations().then(body),
  // Whatever else the package offers, by its name.
  call: ({ method, args }) => registry[method](...args).then(body),
  // The names of all that it offers.
  offered: () =>
    Object.getOwnPropertyNames(Registry.prototype).filter((name) => name !== 'constructor' && !name.startsWith('_')),
  statistics: () => registry.getRegistryStatistics().then(body),

  // All pages of a query; how many items each had.
  async query({ text, pageSize }) {
    const query = registry.createQuery(text, pageSize);
    const pages = [];
    const items = [];
    do {
      // Without the token the package asks for the first page again.
      const page = (await query.next(query.continuationToken)).result;
      pages.push(page.length);
      items.push(...page);
    } while (query.hasMoreResults);
    return { pages, items };
  },
});
