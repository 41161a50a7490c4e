package conversation_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/conversation"
	"github.com/ganglion-es/ganglion/test/harness"
)

// mailer is one of the programs in docs/consumers.md.
type mailer struct {
	section, language, url string
	smtp                   func(host, port string) (old, new string)
	command                func(t *testing.T, source string) *exec.Cmd
	window                 string // in consume
	// Python repeats its ids on each connection. Go says which log it knows.
	hello2, group2 string
	// Go mails the event that is delivered twice again, with the same Message-ID.
	isMailedAgain bool
	// Go acknowledges the events of a parked stream, which it skips. Python does so with
	// the next event.
	acksSkipped bool
}

var mailers = map[string]mailer{
	"go": {
		"## A mailer in Go", "go", "http://127.0.0.1:8080",
		func(host, port string) (string, string) { return "127.0.0.1:25", host + ":" + port },
		buildMailer, "", `{"op": "hello", "id": "$h2", "client": "mailer", "log": "log-1"}`, "$g2", true, true,
	},
	"python": {
		"## The same in Python", "python", "ws://127.0.0.1:8080/v1/ws",
		func(host, port string) (string, string) { return `"127.0.0.1", 25`, fmt.Sprintf("%q, %s", host, port) },
		pythonMailer, `, "window": 10`, `{"op": "hello", "id": "$h", "client": "mailer"}`, "$g", false, false,
	},
}

// text returns the program.
func (m mailer) text() (string, error) {
	page, err := os.ReadFile("../../docs/consumers.md")
	if err != nil {
		return "", err
	}
	_, section, _ := strings.Cut(string(page), "\n"+m.section+"\n")
	block := regexp.MustCompile("(?s)```" + m.language + "\n(.*?)```").FindStringSubmatch(section)
	if block == nil {
		return "", fmt.Errorf("docs/consumers.md has no program under %q", m.section)
	}
	return block[1], nil
}

// TestMailersOfTheDocs runs the two mailers in docs/consumers.md as processes, with a
// mail server and a scripted gateway that takes a segment away and cuts the
// connection.
func TestMailersOfTheDocs(t *testing.T) {
	t.Parallel()
	for name, mailer := range mailers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &mailing{t: t, mailer: mailer, mails: make(chan any, maxSeen)}
			again := ""
			if mailer.isMailedAgain {
				again = `{"observe": {"mail": "eve@example.com", "id": "mailer.103"}},`
			}
			skipped := ""
			if mailer.acksSkipped {
				skipped = `{"expect": {"op": "ack", "sub": "$g", "segment": "3", "epoch": 5, "cursor": "104"}},`
			}
			script := strings.NewReplacer("WINDOW", mailer.window, "SKIPPED", skipped, "HELLO", mailer.hello2, "$group", mailer.group2, "AGAIN", again).Replace(mailerScript)
			var s conversation.Script
			if err := json.Unmarshal([]byte(script), &s); err != nil {
				t.Fatal(err)
			}
			s.Name = name
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if err := conversation.Play(t.Context(), l, s, d); err != nil {
				t.Error(err)
			}
		})
	}
}

// mailerScript is a script with words that differ between the mailers.
const mailerScript = `{"description": "-", "connect": {}, "steps": [
	{"accept": {}},
	{"expect": {"op": "hello", "id": "$h", "client": "mailer"}},
	{"welcome": {}},
	{"expect": {"op": "consume", "id": "$g", "group": "mailer", "member": "$m"WINDOW}},
	{"say": [
		{"op": "consuming", "id": "$g", "window": 10, "ack_within_ms": 3600000},
		{"op": "assigned", "sub": "$g", "segment": "3", "epoch": 5, "cursor": "100", "log": "log-1"},
		{"op": "event", "sub": "$g", "segment": "3", "stream": "auction/6", "version": 4, "position": 101, "event": "closed", "data": {"winner": "bob", "amount": 5}, "time": "2026-11-22T12:00:00Z", "cause": "k"}]},
	{"observe": {"mail": "bob@example.com", "id": "mailer.101"}},
	{"expect": {"op": "ack", "sub": "$g", "segment": "3", "epoch": 5, "cursor": "101"}},
	{"say": [{"op": "event", "sub": "$g", "segment": "3", "stream": "auction/5", "version": 3, "position": 102, "event": "closed", "data": {"winner": "unknown", "amount": 5}, "time": "2026-11-22T12:00:00Z", "cause": "k"},
		{"op": "event", "sub": "$g", "segment": "3", "stream": "auction/5", "version": 4, "position": 104, "event": "closed", "data": {"winner": "late", "amount": 5}, "time": "2026-11-22T12:00:00Z", "cause": "k"}]},
	{"expect": {"op": "park", "id": "$p", "sub": "$g", "segment": "3", "epoch": 5, "position": 102, "reason": "*"}},
	{"say": [{"op": "result", "id": "$p"}]},
	SKIPPED
	{"say": [{"op": "event", "sub": "$g", "segment": "3", "stream": "auction/4", "version": 2, "position": 105, "event": "closed", "data": {"winner": "ada", "amount": 5}, "time": "2026-11-22T12:00:00Z", "cause": "k"}]},
	{"observe": {"mail": "ada@example.com", "id": "mailer.105"}},
	{"expect": {"op": "ack", "sub": "$g", "segment": "3", "epoch": 5, "cursor": "105"}},
	{"say": [
		{"op": "revoked", "sub": "$g", "segment": "3", "epoch": 5},
		{"op": "assigned", "sub": "$g", "segment": "4", "epoch": 6, "cursor": "90", "log": "log-1"},
		{"op": "event", "sub": "$g", "segment": "4", "stream": "auction/7", "version": 9, "position": 103, "event": "closed", "data": {"winner": "eve", "amount": 5}, "time": "2026-11-22T12:00:00Z", "cause": "k"}]},
	{"observe": {"mail": "eve@example.com", "id": "mailer.103"}},
	{"expect": {"op": "ack", "sub": "$g", "segment": "4", "epoch": 6, "cursor": "103"}},
	{"cut": true},
	{"accept": {}},
	{"expect": HELLO},
	{"welcome": {}},
	{"expect": {"op": "consume", "id": "$group", "group": "mailer", "member": "$m"WINDOW}},
	{"say": [
		{"op": "consuming", "id": "$group", "window": 10, "ack_within_ms": 3600000},
		{"op": "assigned", "sub": "$group", "segment": "4", "epoch": 7, "cursor": "90", "log": "log-1"},
		{"op": "event", "sub": "$group", "segment": "4", "stream": "auction/7", "version": 9, "position": 103, "event": "closed", "data": {"winner": "eve", "amount": 5}, "time": "2026-11-22T12:00:00Z", "cause": "k"}]},
	AGAIN
	{"expect": {"op": "ack", "sub": "$group", "segment": "4", "epoch": 7, "cursor": "103"}}
]}`

// mailing is the driver of a mailer's process, and its mail server.
type mailing struct {
	mailer
	t       *testing.T
	mails   chan any
	process *exec.Cmd
	output  bytes.Buffer

	isDown  atomic.Bool   // the mail server serves no client
	refused chan struct{} // clients, the first ones
}

func (d *mailing) Open(ctx context.Context, url string, _ json.RawMessage) error {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.t.Cleanup(func() { _ = server.Close() })
	go d.serveMail(server)
	host, port, _ := net.SplitHostPort(server.Addr().String())
	old, address := d.smtp(host, port)
	source, err := d.text()
	if err != nil {
		return err
	}
	for old, replacement := range map[string]string{d.url: url + "/v1/ws", old: address} {
		if strings.Count(source, old) != 1 {
			return fmt.Errorf("the mailer has %q %d times, want once", old, strings.Count(source, old))
		}
		source = strings.Replace(source, old, replacement, 1)
	}
	d.process = d.command(d.t, source)
	d.process.Stdout, d.process.Stderr = &d.output, &d.output
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return d.process.Start()
}

func (d *mailing) Do(ctx context.Context, step conversation.Step) error {
	var want map[string]any
	if err := json.Unmarshal(step.Body, &want); err != nil {
		return err
	}
	select {
	case got := <-d.mails:
		return compare(want, got, "the mail")
	case <-ctx.Done():
		return errors.New("no mail arrives")
	}
}

func (d *mailing) Close(context.Context) error {
	if d.process == nil || d.process.Process == nil {
		return nil
	}
	err := d.process.Process.Signal(syscall.SIGTERM)
	_ = d.process.Wait() // the signal ended it
	if len(d.mails) > 0 {
		err = errors.Join(err, fmt.Errorf("unexpected mail: %v", <-d.mails))
	}
	if d.t.Failed() {
		d.t.Logf("the mailer wrote: %s", d.output.Bytes())
	}
	return err
}

// serveMail is a mail server that knows every user but unknown@example.com.
func (d *mailing) serveMail(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if d.isDown.Load() {
				select {
				case d.refused <- struct{}{}:
				default:
				}
				return
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			lines := bufio.NewScanner(conn)
			reply := func(text string) { _, _ = fmt.Fprintf(conn, "%s\r\n", text) }
			to, id := "", ""
			for reply("220 mail"); lines.Scan(); {
				line := lines.Text()
				verb, rest, _ := strings.Cut(line, ":")
				switch strings.ToUpper(verb) {
				case "RCPT TO":
					to = strings.Trim(rest, " <>")
					if to == "unknown@example.com" {
						reply("550 no such user")
						continue
					}
					reply("250 ok")
				case "DATA":
					for reply("354 go"); lines.Scan() && lines.Text() != "."; {
						if name, value, _ := strings.Cut(lines.Text(), ": "); name == "Message-ID" {
							id, _, _ = strings.Cut(strings.Trim(value, "<>"), "@")
						}
					}
					d.mails <- map[string]any{"mail": to, "id": id}
					reply("250 ok")
				case "QUIT":
					reply("221 bye")
					return
				default:
					reply("250 mail")
				}
			}
		}()
	}
}

func buildMailer(t *testing.T, source string) *exec.Cmd {
	t.Helper()
	main, binary := filepath.Join(t.TempDir(), "main.go"), filepath.Join(t.TempDir(), "mailer")
	if err := os.WriteFile(main, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vet", main}, {"build", "-o", binary, main}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // like make lint, which has compiled all but this program
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
	return exec.Command(binary)
}

func pythonMailer(t *testing.T, source string) *exec.Cmd {
	t.Helper()
	python := "/usr/bin/python3" // for which Debian's packages are
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import websockets").CombinedOutput(); err != nil {
		t.Fatalf("%s has no websockets: scripts/test.sh installs Debian's package python3-websockets: %v\n%s", python, err, out)
	}
	dir := t.TempDir() // of its table
	main := filepath.Join(dir, "mailer.py")
	if err := os.WriteFile(main, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, main)
	cmd.Dir = dir
	return cmd
}

// lot is an auction of the nodes with which the mailers work.
type lot struct {
	Closed bool `json:"closed"`
}

type closeLot struct {
	Winner string `json:"winner"`
}

func (c closeLot) Decide(aggregate.Call, lot) (aggregate.Decision[lot], error) {
	return aggregate.Emit(lotClosed(c))
}

type lotClosed struct {
	Winner string `json:"winner"`
}

func (lotClosed) Apply(l *lot) { l.Closed = true }

// TestMailersOfTheDocsShareAGroup runs both mailers at two of three nodes, with mail
// servers that are down at first: the mails wait, and nothing is parked. Then it kills
// the mailer in Python while mails are sent, and starts it again.
// GANGLION_FAULTS=long has the mail servers down for ten minutes.
func TestMailersOfTheDocsShareAGroup(t *testing.T) {
	t.Parallel()
	catalog := &aggregate.Catalog{}
	aggregate.Define(catalog, aggregate.Type[lot]{
		Name: "auction", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lot]{"close": closeLot{}}, Events: aggregate.Events[lot]{"closed": lotClosed{}},
	})
	group.Define(catalog, group.Group{Name: "mailer", Reads: group.Reads{lotClosed{}}, Access: aggregate.Authenticated})
	dir := t.TempDir()
	urls, _ := harness.Serve(t, 3, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: dir, Ready: ready}, 3)
	})
	mails := make(chan any, 1000)
	start := func(name, url string, isDown bool) *mailing {
		d := &mailing{t: t, mailer: mailers[name], mails: mails, refused: make(chan struct{}, 1)}
		d.isDown.Store(isDown)
		if err := d.Open(t.Context(), "ws"+strings.TrimPrefix(url, "http"), nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = d.process.Process.Kill()
			_ = d.process.Wait() // killed
			if t.Failed() {
				t.Logf("the mailer in %s wrote: %s", name, d.output.Bytes())
			}
		})
		return d
	}
	golang, python := start("go", urls[0], true), start("python", urls[1], true)

	client, err := ganglion.Connect(t.Context(), ganglion.Options{URLs: []string{urls[2]}, ClientID: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ids := map[string]bool{}
	const auctions = 60
	receive := func(until int) {
		t.Helper()
		late := time.After(2 * time.Minute)
		for len(ids) < until {
			select {
			case m := <-mails:
				id := m.(map[string]any)["id"].(string)
				ids[id] = true
			case <-late:
				t.Fatalf("%d of %d mails were sent", len(ids), until)
			}
		}
	}
	closeOne := func(i int) {
		t.Helper()
		if _, err := client.Aggregate("auction", fmt.Sprint(i)).Send(t.Context(), "close", closeLot{fmt.Sprint("w", i)}); err != nil {
			t.Fatal(err)
		}
	}
	const early = 20
	for i := range early {
		closeOne(i)
	}
	for _, d := range []*mailing{golang, python} {
		select {
		case <-d.refused:
		case <-time.After(2 * time.Minute):
			t.Fatalf("the mailer in %s does not try to mail", d.language)
		}
	}
	if os.Getenv("GANGLION_FAULTS") == "long" {
		time.Sleep(10 * time.Minute)
	}
	if len(mails) > 0 {
		t.Errorf("a mail was sent without a mail server: %v", <-mails)
	}
	golang.isDown.Store(false)
	python.isDown.Store(false)
	receive(early)
	for i := early; i < auctions; i++ {
		closeOne(i)
		switch i {
		case 40:
			receive(early + 10)
			_ = python.process.Process.Kill()
		case 50:
			start("python", urls[2], false)
		}
	}
	receive(auctions)
}
