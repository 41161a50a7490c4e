package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestRedactorRemovesSecrets(t *testing.T) {
	t.Parallel()
	n := &node{cfg: Config{Store: "postgres://u:in-the-url@db/x?sslpassword=in-the-query", StorePassword: "of-a-file"}}
	redact := n.redactor()
	for text, want := range map[string]string{
		`err="failed: in-the-url, in-the-query, of-a-file"`:                  `err="failed: xxxxx, xxxxx, xxxxx"`,
		`url=postgres://ada:pa:ss@w0rd@db:5432/x?sslmode=disable member=n1`:  `url=postgres://ada:xxxxx@db:5432/x?sslmode=disable member=n1`,
		`detail="Bearer eyJhbGciOiJI.eyJzdWIi.c2ln-_x is no token"`:          `detail="Bearer xxxxx is no token"`,
		`path="/v1/ws?token=abc&x=1"`:                                        `path="/v1/ws?token=xxxxx&x=1"`,
		`password="two words" stream=a/b`:                                    `password=xxxxx stream=a/b`,
		`claims="{\"role\":\"x y\"}" stream=a/b`:                             `claims=xxxxx stream=a/b`,
		`{"claims":{"role":"x"},"node":"n1"}`:                                `{"claims":xxxxx,"node":"n1"}`,
		`who="dev:cook {\"role\":\"kitchen\"}"`:                              `who="dev:cook xxxxx`,
		`msg="the keys that verify tokens can't be read" url=http://db:8080`: `msg="the keys that verify tokens can't be read" url=http://db:8080`,
	} {
		if got := string(redact([]byte(text))); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
}

func TestNewestLogLinesAreKeptWhole(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	log := Record(slog.New(slog.NewTextHandler(&written, nil))).With("node", "n1")
	kept := record(log.Handler()).recent // shared with log
	log.Debug("not asked for")
	const lines = 100_000
	for i := range lines {
		log.Info("line", "i", i)
	}
	text := string(kept.bytes())
	if len(text) < recentBytes || len(text) > 2*recentBytes+recentLineBytes {
		t.Errorf("%d bytes are kept", len(text))
	}
	if !strings.HasPrefix(text, "time=") || !strings.HasSuffix(written.String(), text) {
		t.Errorf("the kept text is not the end of the log: %.200q", text)
	}
	if strings.Contains(text, "not asked for") {
		t.Error("a line below the level is kept")
	}
	log.Info("long", "text", strings.Repeat("x", 10*recentLineBytes))
	log.Info("after it")
	text = string(kept.bytes())
	last := strings.Split(strings.TrimSpace(text), "\n")
	if line := last[len(last)-2]; len(line) != recentLineBytes-1 || !strings.Contains(line, "msg=long") {
		t.Errorf("a long line has %d bytes", len(line))
	}
	if !strings.Contains(last[len(last)-1], `msg="after it" node=n1`) {
		t.Errorf("the last line is %s", fmt.Sprintf("%.200s", last[len(last)-1]))
	}
}
