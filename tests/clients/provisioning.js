// A device that fetches its identity, and the back end that lets it: azure-iot-provisioning-device over its HTTP transport with a
// symmetric key, azure-iot-provisioning-service.
'use strict';

const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http } = require('azure-iot-provisioning-device-http');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { serve } = require('./lines.js');

let service;

const body = (result) => result.responseBody;

async function pages(query) {
  const found = [];
  do {
    const page = (await query.next(query.continuationToken)).responseBody;
    found.push(page);
  } while (query.hasMoreResults);
  return found;
}

serve({
  register({ host, scope, registration, key }) {
    const security = new SymmetricKeySecurityClient(registration, key);
    return ProvisioningDeviceClient.create(host, scope, new Http(), security).register();
  },

  open({ connectionString }) {
    service = ProvisioningServiceClient.fromConnectionString(connectionString);
  },
  putSingle: ({ enrolment }) => service.createOrUpdateIndividualEnrollment(enrolment).then(body),
  putGroup: ({ enrolment }) => service.createOrUpdateEnrollmentGroup(enrolment).then(body),
  single: ({ name }) => service.getIndividualEnrollment(name).then(body),
  group: ({ name }) => service.getEnrollmentGroup(name).then(body),
  singleKeys: ({ name }) => service.getIndividualEnrollmentAttestationMechanism(name).then(body),
  groupKeys: ({ name }) => service.getEnrollmentGroupAttestationMechanism(name).then(body),
  deleteSingle: ({ name, etag }) => service.deleteIndividualEnrollment(name, etag).then(() => null),
  deleteGroup: ({ name, etag }) => service.deleteEnrollmentGroup(name, etag).then(() => null),
  singles: ({ pageSize }) => pages(service.createIndividualEnrollmentQuery({ query: '*' }, pageSize)),
  groups: ({ pageSize }) => pages(service.createEnrollmentGroupQuery({ query: 'SELECT * FROM enrollmentGroups' }, pageSize)),
  registrations: ({ name, pageSize }) =>
    pages(service.createEnrollmentGroupDeviceRegistrationStateQuery({ query: '*' }, name, pageSize)),
  registration: ({ name }) => service.getDeviceRegistrationState(name).then(body),
  deleteRegistration: ({ name }) => service.deleteDeviceRegistrationState(name).then(() => null),
  // The package never settles the promise of this one.
  bulk: ({ operation }) => new Promise((done, failed) => {
    service.runBulkEnrollmentOperation(operation, (error, result) => (error ? failed(error) : done(result)));
  }),
});
