// A TLS client of a line echo server. Sends two lines and prints the replies.
//
// Arguments: HOST PORT NAME AUTHORITY.pem 1.2|1.3 [CERTIFICATE.pem KEY.pem]
// Connects twice, and resumes the session with the second connection.

const fs = require('fs');
const tls = require('tls');

const [host, port, name, authority, version, certificate, key] = process.argv.slice(2);
const options = {
  host, port, servername: name, ca: fs.readFileSync(authority),
  minVersion: `TLSv${version}`, maxVersion: `TLSv${version}`,
  cert: certificate && fs.readFileSync(certificate), key: key && fs.readFileSync(key),
};

function run(session, next) {
  let replies = '';
  let ticket = null;
  const socket = tls.connect({ ...options, session }, () => socket.write('hello\nquit\n'));
  socket.on('session', (fresh) => { ticket = fresh; });
  socket.on('data', (data) => { replies += data; });
  socket.on('end', () => {
    console.log(replies.split('\n'), socket.getProtocol(), 'resumed', socket.isSessionReused());
    next(ticket);
  });
  socket.on('error', (error) => {
    console.error(error.code, error.message);
    process.exit(1);
  });
}

run(undefined, (ticket) => run(ticket, () => {}));
