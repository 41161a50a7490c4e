package eventstore_test

import (
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestParseStreamIDAcceptsOnlyValidNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"auction/42": true, "a-b_1/ada lovelace": true, "client/日本": true, "a/" + strings.Repeat("x", 200): true,
		"": false, "auction": false, "/42": false, "auction/": false, "auction/.": false, "auction/..": false,
		"auction/a/b": false, "Auction/1": false, "a b/1": false, "é/1": false, "a/\x00": false, "a/\n": false, "a/\xff": false,
		"a/" + strings.Repeat("x", 201): false, strings.Repeat("a", 201) + "/1": false, "a/\u200b": false,
	} {
		s, err := eventstore.ParseStreamID(name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err == nil && s.String() != name {
			t.Errorf("%q is parsed as %q", name, s)
		}
	}
}

func FuzzParseStreamID(f *testing.F) {
	f.Add("auction/42")
	f.Add("a/..")
	f.Add("\xff/\x00")
	f.Fuzz(func(t *testing.T, name string) {
		s, err := eventstore.ParseStreamID(name)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x00\n") {
				t.Errorf("%q: the error has control characters: %q", name, err)
			}
			return
		}
		if s.String() != name || s.Validate() != nil || len(s.ID) > eventstore.MaxIDBytes {
			t.Errorf("%q is parsed as %q", name, s)
		}
	})
}
