// Package patroni tests real nodes on a PostgreSQL cluster that Patroni manages, while
// its servers are killed, frozen, cut off and switched over. The tests need the tag
// patroni, and what package patronitest needs: "make test-faults" runs them.
package patroni
