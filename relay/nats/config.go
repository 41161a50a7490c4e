// Package nats publishes the events of a log to a stream of NATS JetStream, for package
// relay.
//
// Each event is in the stream once: a message names the sequence number that it expects
// the stream to have, so the stream refuses a relay that is not the last one to write,
// and a message whose predecessor was refused. The stream is the relay's own: no other
// program may publish to it.
package nats

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/ganglion-es/ganglion/relay"
)

// Broker makes relays to NATS from a configuration file.
var Broker = relay.Broker{
	Schemes: []string{"nats", "tls"}, Keys: append([]string{"stream", "subject", "credentials-file"}, relay.TLSKeys...),
	Configure: func(s relay.Settings) (string, func() relay.Target, error) {
		return New(Config{
			URL: s.URL, Password: s.Password, Stream: s.Own["stream"], Subject: s.Own["subject"],
			TLS: relay.TLSOf(s), CredentialsFile: s.Own["credentials-file"],
		})
	},
}

// Config names a stream.
type Config struct {
	// URL is nats://USER@HOST:PORT, or tls://. Required.
	URL      *url.URL
	Password string
	// Stream is the name of the stream. If there is none, one in files is made that keeps
	// all messages. Required.
	Stream string
	// Subject begins the subjects of the messages; {type}.{id}.{event} follows.
	//
	// Defaults to "events".
	Subject string
	// TLS is for tls. The files are read for each connection.
	TLS relay.TLSFiles
	// CredentialsFile has the user's JWT and seed, instead of a password.
	CredentialsFile string
}

// New returns the Where and the New of a relay.Relay. The error lists everything that is
// wrong.
func New(c Config) (where string, target func() relay.Target, err error) {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.URL == nil || c.URL.Hostname() == "" || c.URL.Scheme != "nats" && c.URL.Scheme != "tls" {
		problem("the URL of NATS is nats://USER@HOST:PORT, or tls:// for TLS")
		return "", nil, errors.Join(errs...)
	}
	if c.Stream == "" {
		problem("stream is missing: name the stream that gets the events")
	}
	if strings.ContainsAny(c.Stream, ".*>/\\ \t") {
		problem("stream %q is not allowed: use a name without . * > / \\ and spaces", c.Stream)
	}
	c.Subject = cmp.Or(c.Subject, "events")
	if strings.ContainsAny(c.Subject, "*> \t") || strings.HasPrefix(c.Subject, ".") || strings.HasSuffix(c.Subject, ".") || strings.Contains(c.Subject, "..") {
		problem("subject %q is not allowed: use words with . between them, without * and >", c.Subject)
	}
	if p, has := c.URL.User.Password(); has && c.Password != "" {
		problem("the password is in the URL and outside of it: use one place")
	} else if has {
		c.Password = p
	}
	if c.CredentialsFile != "" && c.URL.User.Username() != "" {
		problem("the URL has a user, and credentials-file names one too: use one of them")
	}
	if c.URL.Scheme == "nats" && c.TLS != (relay.TLSFiles{}) {
		problem("ca-file, cert-file and key-file are for TLS: write tls:// in the URL")
	}
	if _, err := c.TLS.Read(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return "", nil, err
	}
	return c.where(), func() relay.Target { return newTarget(&c) }, nil
}

// where names the stream without secrets.
func (c *Config) where() string { return fmt.Sprintf("stream %q of NATS at %s", c.Stream, c.URL.Host) }
