// The conversation with a test: one JSON request per line on standard input, one JSON answer per line on standard output.
//
// A request is {"id": n, "do": "name", ...}; the answer {"id": n, "ok": value} or {"id": n, "error": {...}}. Requests run
// side by side, so that one may wait while the next is made.
'use strict';

const readline = require('readline');

function describe(error) {
  const inner = error.amqpError || error;
  return {
    name: String(error.name || error.constructor.name),
    code: error.code === undefined ? null : String(error.code),
    condition: inner.condition === undefined ? null : String(inner.condition),
    message: String(error.message || error),
  };
}

function answer(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

exports.describe = describe;

// Serve requests with the functions of `actions` until standard input ends.
exports.serve = function serve(actions) {
  const input = readline.createInterface({ input: process.stdin });
  input.on('line', (line) => {
    const request = JSON.parse(line);
    Promise.resolve()
      .then(() => actions[request.do](request))
      .then((ok) => answer({ id: request.id, ok: ok === undefined ? null : ok }))
      .catch((error) => answer({ id: request.id, error: describe(error) }));
  });
  input.on('close', () => process.exit(0));
};
