package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func gossipKey(b byte) []byte { return bytes.Repeat([]byte{b}, gossipKeyBytes) }

func TestGossipKeyFileFormats(t *testing.T) {
	t.Parallel()
	one, two := gossipKey(0xe1), gossipKey(0xe2)
	hexed, based := hex.EncodeToString(one), base64.StdEncoding.EncodeToString(two)
	for content, want := range map[string][][]byte{
		hexed:                                 {one},
		strings.ToUpper(hexed) + "\n":         {one},
		strings.TrimRight(based, "="):         {two},
		string(one):                           {one},
		"\n" + based + "\r\n\n" + hexed + " ": {two, one},
	} {
		if got, err := parseGossipKeys([]byte(content)); err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%q: %x, %v", content, got, err)
		}
	}
	for content, want := range map[string]string{
		"":                         "no gossip key",
		" \n":                      "no gossip key",
		hexed + "\nhunter2":        "line 2",
		hexed[:62]:                 "line 1",
		hexed + "\n\n" + hexed:     "line 3 repeats",
		string(one) + string(two):  "line 1",
		hexed + "\n" + string(two): "line 2",
		string(one[:31]) + "\n":    "", // 32 bytes: a raw key may end with a newline
	} {
		_, err := parseGossipKeys([]byte(content))
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", content, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v lacks %q", content, err, want)
		}
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readGossipKeys(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
}

func TestGossipKeysFollowTheirFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, two, three := hex.EncodeToString(gossipKey(1)), hex.EncodeToString(gossipKey(2)), hex.EncodeToString(gossipKey(3))
	write(one)
	logged := &lines{}
	k, err := OpenGossipKeys(file, logged.logger())
	if err != nil {
		t.Fatal(err)
	}
	var used [][]byte
	var refuse error
	look := func() {
		k.look(func(keys [][]byte) error {
			if refuse == nil {
				used = keys
			}
			return refuse
		})
	}
	warnings := func() int { return strings.Count(logged.String(), "level=WARN") }

	if look(); used != nil {
		t.Error("the same keys were set again")
	}
	for _, text := range []string{one + "\n" + two, two + "\n" + one, two} {
		write(text)
		look()
		if len(used) != strings.Count(text, "\n")+1 || hex.EncodeToString(used[0]) != text[:64] {
			t.Errorf("%s: uses %x", text, used)
		}
	}
	if warnings() != 0 || !strings.Contains(logged.String(), k.Names()[0]) {
		t.Errorf("a valid change caused a warning, or the key is not named:\n%s", logged)
	}

	write(two[:10]) // half-written
	for range 3 {
		look()
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	look()
	if len(used) != 1 || hex.EncodeToString(used[0]) != two || warnings() != 1 {
		t.Errorf("a bad file: uses %x, %d warnings:\n%s", used, warnings(), logged)
	}
	write(three) // without a step that has both keys
	if look(); warnings() != 2 || !strings.Contains(logged.String(), "nodes that lack it") {
		t.Errorf("a new first key caused no warning:\n%s", logged)
	}
	refuse = errors.New("not now")
	write(one)
	look()
	refuse = nil
	if look(); hex.EncodeToString(used[0]) != one {
		t.Error("a rejected key was not tried again")
	}
	if strings.Contains(logged.String(), one) || strings.Contains(logged.String(), two) {
		t.Error("the log shows a key")
	}
}
