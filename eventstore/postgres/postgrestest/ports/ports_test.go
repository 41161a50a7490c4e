package ports_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
)

func TestMain(m *testing.M) {
	if os.Getenv("PORTS_CHILD") == "" {
		os.Exit(m.Run())
	}
	for range 150 { // more than a block
		port, err := ports.Reserve(3)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(port)
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // holds its blocks until the parent closes this pipe
}

func TestProcessesReserveDifferentPorts(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	var ends []func() error
	for child := range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PORTS_CHILD=1")
		cmd.Stderr = os.Stderr
		hold, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, func() error { hold.Close(); return cmd.Wait() })
		for range 150 {
			var port string
			if _, err := fmt.Fscan(out, &port); err != nil {
				t.Fatal(err)
			}
			if other, ok := seen[port]; ok {
				t.Errorf("the processes %d and %d have both reserved port %s", other, child, port)
			}
			seen[port] = child
		}
	}
	for _, end := range ends {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}

func TestReserveSkipsPortsInUse(t *testing.T) {
	t.Parallel()
	first, err := ports.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+2))
	if err != nil && !strings.Contains(err.Error(), "in use") {
		t.Fatal(err)
	}
	if err == nil {
		defer taken.Close()
	}
	next, err := ports.Reserve(3)
	if err != nil {
		t.Fatal(err)
	}
	if next <= first+2 {
		t.Errorf("got the ports from %d on, of which %d is in use", next, first+2)
	}
}
