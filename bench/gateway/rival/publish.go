// Package rival has the servers with which the gateway is compared.
package rival

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// servePublish serves one publisher. Each line has a topic, a number of events,
// and their data. It replies to the line "sync" after it has published all
// earlier lines.
func servePublish(l net.Listener, publish func(topic string, data []byte) error) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		line = line[:len(line)-1]
		if string(line) == "sync" {
			if _, err := conn.Write([]byte("synced\n")); err != nil {
				return err
			}
			continue
		}
		topic, rest, _ := bytes.Cut(line, []byte(" "))
		count, data, _ := bytes.Cut(rest, []byte(" "))
		n, err := strconv.Atoi(string(count))
		if err != nil {
			return fmt.Errorf("publish %.100q: %w", line, err)
		}
		for range n {
			if err := publish(string(topic), bytes.Clone(data)); err != nil {
				return fmt.Errorf("publish to %s: %w", topic, err)
			}
		}
	}
}

// listen opens the two ports of a rival and prints their addresses.
func listen() (clients, publisher net.Listener, err error) {
	if clients, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	if publisher, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, nil, errors.Join(err, clients.Close())
	}
	fmt.Println("ready", clients.Addr(), publisher.Addr())
	return clients, publisher, nil
}
