// Package embedded runs what rekey needs besides itself, inside its own process tree: a private
// Postgres server as a child process, and NATS with JetStream inside this process. `rekey dev` and
// the tests stand on it; `rekey serve` uses external servers and needs none of this.
//
// # Postgres
//
// StartPostgres takes one folder and gives a running server, whose binaries (PostgreSQL 15 to 18)
// must be on the machine already. The folder holds
//
//	data           the cluster, made by initdb at the first start
//	run            the folder of the unix socket, made anew at each start; a link to a short
//	               folder below the temporary one where the path is too long for a socket
//	password       of the superuser "rekey" over TCP, made once, mode 0600
//	port           the last port on 127.0.0.1, taken again where it is free
//	pg_hba.conf    who may connect, written at each start
//	postgres.log   what the server writes; emptied at a start when above 10 MB
//	lock           held by the process that uses the folder, as long as it lives
//
// It guarantees:
//
//   - The server dies with the process that started it, also when that is killed with -9: on Linux
//     at once, by the kernel's parent death signal. On other systems it lives on until the next
//     start on the same folder, which stops it.
//   - Nothing in a cluster is ever deleted: not when its version is another than the binaries' (the
//     start is refused), not when initdb was interrupted (its unfinished folder has another
//     name, which only a finished cluster loses).
//   - A start after any crash needs no help by hand: processes left of the earlier server are
//     waited for or stopped, then lock files that still name a living process are removed. They are
//     never removed while a process works in the cluster.
//   - One process per folder: a second start is refused with ErrPostgresInUse.
//   - As root, the server runs as an unprivileged user, since Postgres refuses root. Folders made
//     here (see MakeDir) can be entered by that user; one that was there before is never opened up, the
//     start fails and names it instead.
//   - Nobody but root and the server's user gets in over the socket, whose folder has mode 0700.
//     Over TCP, on 127.0.0.1 only, the password is asked for.
//
// It does not guarantee anything against that user itself, nor for a cluster on a network file
// system, where the lock may not hold. It runs on Linux and macOS.
//
// When the server ends by itself, Done is closed and Err holds the end of its log; it is not started
// again, since whoever uses it has lost its connections and should decide.
package embedded
