package cluster

import (
	"strings"
	"testing"
)

func TestConfigErrorNamesEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		ID:            "n 1",
		Cluster:       strings.Repeat("c", 65),
		BindPort:      -1,
		AdvertisePort: 65536,
		Join:          []string{"ok", "ok:1", "::1", "[::1]:7946", "bad:port", "a:b:c", ":7946", "zero:0"},
		Keys:          [][]byte{make([]byte, 16)},
		Self:          Member{ID: "n2"},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	got := err.Error()
	for _, want := range []string{
		`Self.ID is "n2", ID is "n 1"`,
		`the id "n 1" has the character ' '`,
		"the cluster's name has 65 bytes",
		"BindPort is -1",
		"AdvertisePort is 65536",
		`the seed "bad:port" needs a port`,
		`the seed "a:b:c" is not of the form`,
		`the seed ":7946" has no host`,
		`the seed "zero:0" needs a port`,
		"the gossip key has 16 bytes, 32 are needed",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 10 {
		t.Errorf("%d problems, want 10:\n%s", n, got)
	}
}

func TestTooLargeMetadataIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	cfg := member("n1")
	cfg.Self.PeerAddr = strings.Repeat("h", 300) + ":9080"
	cfg.Self.HTTPAddr = strings.Repeat("h", 300) + ":8080"
	if c, err := New(cfg); err == nil {
		c.Close()
		t.Fatal("accepted")
	} else if !strings.Contains(err.Error(), "612 bytes together, at most 477 fit into gossip") {
		t.Errorf("the error is %q", err)
	}
	cfg = member("n1")
	cfg.Self.PeerAddr = ""
	if c, err := New(cfg); err == nil {
		c.Close()
		t.Fatal("a domain node without a peer address was accepted")
	}
}

func TestUnreachableAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Config){
		"the gossip address":     func(c *Config) { c.BindAddr = "no such host" },
		"the advertised address": func(c *Config) { c.AdvertiseAddr = "0.0.0.0" },
	} {
		cfg := member("n1")
		spoil(&cfg)
		c, err := New(cfg)
		if err == nil {
			c.Close()
			t.Fatalf("%s: accepted", name)
		}
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
}
