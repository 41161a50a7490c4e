package stream

import (
	"bufio"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/relay"
)

func TestIdleConnectionLivesAsLongAsTheBrokerSendsHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, make, err := New(Config{Relay: "r", URL: &url.URL{Scheme: scheme, Host: "mq"}, Stream: "s"})
		if err != nil {
			t.Fatal(err)
		}
		here, broker := net.Pipe()
		defer broker.Close()
		one := make().(*target)
		one.conn = &conn{Conn: here, in: bufio.NewReader(here), frameMax: maxFrame}
		one.start()
		defer one.Close()
		var beats atomic.Int64
		go func() {
			for in := bufio.NewReader(broker); ; beats.Add(1) {
				if _, err := io.ReadFull(in, newFrame(heartbeat).done()); err != nil {
					return
				}
			}
		}()
		for range 60 { // five minutes
			time.Sleep(relay.Heartbeat)
			if _, err := broker.Write(newFrame(heartbeat).done()); err != nil {
				t.Fatalf("the relay has closed the connection: %v", one.Err())
			}
		}
		if beats.Load() < 100 {
			t.Errorf("the relay has sent %d heartbeats in five minutes", beats.Load())
		}
		began := time.Now()
		<-one.done
		if silent := time.Since(began); silent != 3*relay.Heartbeat || !strings.Contains(one.Err().Error(), "it was silent for too long") {
			t.Errorf("the run ended after %v: %v", silent, one.Err())
		}
	})
}
