package cli

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain"
)

const seedLines = `{"client":"ada","aggregate":"auction/42","command":"open","data":{"item":"lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}}
{"client":"bob","aggregate":"auction/42","command":"bid","data":{"amount":1500}}

{"client":"bob","aggregate":"auction/42","command":"bid","data":{"amount":1200}}
{"aggregate":"counter/a","command":"add","data":{"by":1},"claims":{"role":"cook"}, "client":"cy"}
{"aggregate":"counter/a","command":"add","data":{"by":1},"claims":{"role":"cook"}, "client":"cy"}
`

// TestSeedIsPlayedOnce starts "dev --seed" three times on one log, the last time with
// another line.
func TestSeedIsPlayedOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "seed.jsonl")
	play := func(text, want string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		until, stop := io.Pipe()
		logged := new(strings.Builder)
		c := devCmd{Listen: "127.0.0.1:0", Data: filepath.Join(dir, "data"), Nodes: 1, Seed: file, UntilEOF: true}
		log := slog.New(slog.NewTextHandler(writer(func(line []byte) {
			logged.Write(line)
			if strings.Contains(string(line), "the seed was sent") {
				stop.Close()
			}
		}), nil))
		if err := c.run(t.Context(), testProgram(), until, log); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(logged.String(), want) || !strings.Contains(logged.String(), "line=4 stream=auction/42 command=bid") {
			t.Errorf("%s\nlacks %s", logged, want)
		}
	}
	play(seedLines, "executed=4 before=0 failed=1")
	play(seedLines, "executed=0 before=4 failed=1")
	play(seedLines+`{"client":"eve","aggregate":"auction/42","command":"bid","data":{"amount":2000}}`, "executed=1 before=4 failed=1")
}

func TestInvalidSeedIsRejected(t *testing.T) {
	t.Parallel()
	for want, text := range map[string]string{
		"line 2: ":            "{\"aggregate\":\"auction/1\",\"command\":\"bid\",\"data\":{\"amount\":1}}\nnot json",
		"unknown field":       `{"aggregate":"a/1","command":"b","date":{}}`,
		"command is missing":  `{"aggregate":"a/1"}`,
		"line 1":              `{"aggregate":"a","command":"b"}`,
		"text follows":        `{"aggregate":"a/1","command":"b"} {}`,
		"no command \"bidd\"": `{"aggregate":"auction/1","command":"bidd"}`,
		"no aggregate type":   `{"aggregate":"lot/1","command":"bid"}`,
		"data.amount":         `{"aggregate":"auction/1","command":"bid","data":{"amount":"much"}}`,
		"token too long":      strings.Repeat("x", maxSeedLine+1),
	} {
		file := filepath.Join(t.TempDir(), "seed")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var usage usageError
		if _, err := readSeed(file, &domain.Catalog); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v lacks %s", text, err, want)
		}
	}
	if _, err := readSeed("missing", &domain.Catalog); err == nil || !strings.Contains(err.Error(), "--seed") {
		t.Error(err)
	}
}
