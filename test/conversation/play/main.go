// Command play is the scripted gateway for client libraries in other languages. It
// plays conversations with a driver on its standard input and output, one JSON
// object per line.
//
//	driver: {"play":"proto/testdata/conversations/hello.json"}
//	play:   {"open":{"url":"ws://127.0.0.1:40001","connect":{…}}}
//	driver: {}                           done; or {"error":"…"}
//	play:   {"do":{"observe":{…}}}       a step of the application
//	driver: {}
//	play:   {"close":{}}
//	driver: {}
//	play:   {"played":{"error":""}}      the verdict
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/ganglion-es/ganglion/test/conversation"
)

func main() {
	d := &driver{in: bufio.NewReader(os.Stdin), out: json.NewEncoder(os.Stdout)}
	for {
		var request struct {
			Play string `json:"play"`
		}
		err := d.read(&request)
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = d.out.Encode(map[string]any{"played": map[string]string{"error": play(request.Play, d)}})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func play(file string, d *driver) string {
	ctx := context.Background()
	s, err := conversation.Load(file)
	if err != nil {
		return err.Error()
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err.Error()
	}
	if err := conversation.Play(ctx, l, s, d); err != nil {
		return err.Error()
	}
	return ""
}

// driver is the conversation.Driver in the other process. It ignores contexts,
// since the other process bounds its own waits.
type driver struct {
	in  *bufio.Reader
	out *json.Encoder
}

func (d *driver) read(v any) error {
	line, err := d.in.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

func (d *driver) ask(request map[string]any) error {
	if err := d.out.Encode(request); err != nil {
		return err
	}
	var answer struct {
		Error string `json:"error"`
	}
	if err := d.read(&answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

func (d *driver) Open(_ context.Context, url string, connect json.RawMessage) error {
	return d.ask(map[string]any{"open": map[string]any{"url": url, "connect": connect}})
}

func (d *driver) Do(_ context.Context, step conversation.Step) error {
	return d.ask(map[string]any{"do": step})
}

func (d *driver) Close(context.Context) error {
	return d.ask(map[string]any{"close": struct{}{}})
}
