// Package patronitest runs PostgreSQL clusters for tests: etcd and three servers that
// Patroni manages, with the configuration of deploy/patroni. Each is a Machine with its
// own network, so it can be cut off, frozen and killed as a whole.
//
// It needs Linux, root, and Debian's packages patroni, etcd-server, postgresql and
// iproute2.
package patronitest
