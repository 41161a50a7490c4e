package stream

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/relay"
)

const (
	// maxFrame bounds the bytes of a frame in both directions, whatever the broker
	// accepts.
	maxFrame = 4 << 20
	// minFrame is the least limit of a broker with which the commands of a relay work.
	minFrame = 4 << 10
	// publisher is the id of the one publisher of a connection.
	publisher = 0
)

// A conn is a connection to a node of the broker.
type conn struct {
	net.Conn
	in          *bufio.Reader
	frameMax    int    // bytes of a frame, without its length
	correlation uint32 // of the last request
	advertised  string // HOST:PORT at which the node says it is reached
}

// dial connects to a node and opens the virtual host. The end of ctx ends the
// connection; the caller stops that with release.
func (c *Config) dial(ctx context.Context, address string) (opened *conn, release func() bool, err error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	release = context.AfterFunc(ctx, func() { raw.Close() })
	o := &conn{Conn: raw, frameMax: maxFrame}
	if c.secure() {
		settings, err := c.TLS.Read()
		if err == nil {
			settings.ServerName, _, err = net.SplitHostPort(address)
		}
		if err != nil {
			release()
			return nil, nil, errors.Join(err, raw.Close())
		}
		o.Conn = tls.Client(raw, settings)
	}
	o.in = bufio.NewReader(o.Conn)
	if err := o.handshake(c); err != nil {
		release()
		raw.Close()
		if c.secure() {
			err = relay.ExplainTLS(err)
		}
		return nil, nil, err
	}
	return o, release, nil
}

// handshake introduces the client and opens the virtual host.
func (o *conn) handshake(c *Config) error {
	_, err := o.call(peerProperties, func(f frame) frame {
		return f.pairs("product", "ganglion", "connection_name", "ganglion relay "+c.Relay)
	})
	if err != nil {
		return err
	}
	if _, err := o.call(saslHandshake, func(f frame) frame { return f }); err != nil {
		return err
	}
	secret := "\x00" + c.user() + "\x00" + c.Password
	_, err = o.call(saslAuthenticate, func(f frame) frame {
		return append(f.text("PLAIN").u32(uint32(len(secret))), secret...)
	})
	if err != nil {
		return err
	}
	if err := o.tune(); err != nil {
		return err
	}
	vhost := "/"
	if len(c.URL.Path) > 1 {
		vhost = c.URL.Path[1:]
	}
	answer, err := o.call(open, func(f frame) frame { return f.text(vhost) })
	if err != nil {
		return err
	}
	properties := map[string]string{}
	answer.list(func() {
		name := answer.text()
		properties[name] = answer.text()
	})
	o.advertised = net.JoinHostPort(properties["advertised_host"], properties["advertised_port"])
	return nil
}

// tune agrees on the size of frames and on heartbeats.
func (o *conn) tune() error {
	key, in, err := o.read()
	if err != nil {
		return err
	}
	if key != tune {
		return fmt.Errorf("it sent the command %d instead of its limits: is this the port of streams?", key)
	}
	most := in.u32()
	if most > 0 {
		o.frameMax = int(min(most, maxFrame))
	}
	if o.frameMax < minFrame {
		return fmt.Errorf("its stream.frame_max is %d bytes: set at least %d", most, minFrame)
	}
	answer := newFrame(tune | isResponse).u32(most).u32(uint32(relay.Heartbeat / time.Second))
	_, err = o.Write(answer.done())
	return err
}

// read reads the next frame. Its error also reports that the broker closes the connection.
func (o *conn) read() (key uint16, in *content, err error) {
	var size [4]byte
	if _, err := io.ReadFull(o.in, size[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > maxFrame {
		return 0, nil, fmt.Errorf("it sent a frame of %d bytes: is this the port of streams?", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(o.in, body); err != nil {
		return 0, nil, err
	}
	in = &content{rest: body}
	key = in.u16()
	_ = in.u16() // its version
	if key == closing {
		_, code := in.u32(), in.u16()
		return 0, nil, fmt.Errorf("it closed the connection: %s (%s)", in.text(), reason(code))
	}
	return key, in, nil
}

// call sends a request and returns what follows the code of its response.
func (o *conn) call(key uint16, fill func(frame) frame) (*content, error) {
	o.correlation++
	if _, err := o.Write(fill(newFrame(key).u32(o.correlation)).done()); err != nil {
		return nil, err
	}
	for {
		got, in, err := o.read()
		if err != nil {
			return nil, err
		}
		if got != key|isResponse || in.u32() != o.correlation {
			continue // a heartbeat, or news about a stream, which declaring the publisher finds out too
		}
		if key != metadata {
			if code := in.u16(); code != codeOK {
				return nil, &codeError{key, code}
			}
		}
		if in.short {
			return nil, errShort
		}
		return in, nil
	}
}

// leader returns the HOST:PORT of the node that leads a stream, as that node advertises
// it.
func (o *conn) leader(stream string) (string, error) {
	in, err := o.call(metadata, func(f frame) frame { return f.u32(1).text(stream) })
	if err != nil {
		return "", err
	}
	nodes := map[uint16]string{}
	in.list(func() {
		id, host, port := in.u16(), in.text(), in.u32()
		nodes[id] = net.JoinHostPort(host, strconv.Itoa(int(port)))
	})
	var code, leads uint16
	in.list(func() {
		_ = in.text() // the stream
		code, leads = in.u16(), in.u16()
		in.list(func() { in.u16() }) // replicas
	})
	switch {
	case in.short:
		return "", errShort
	case code != codeOK:
		return "", &codeError{metadata, code}
	case nodes[leads] == "":
		return "", &codeError{metadata, codeNotAvailable}
	}
	return nodes[leads], nil
}

// confirmed waits for the confirmation of a message.
func (o *conn) confirmed(id uint64) error {
	for {
		key, in, err := o.read()
		if err != nil {
			return err
		}
		switch key {
		case publishConfirm:
			found := false
			in.u8()
			in.list(func() { found = in.u64() == id || found })
			if found {
				return nil
			}
		case publishError:
			in.u8()
			var code uint16
			in.list(func() { in.u64(); code = in.u16() })
			return &codeError{publish, code}
		case metadataUpdate:
			return &codeError{publish, in.u16()}
		}
	}
}
