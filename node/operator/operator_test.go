package operator

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// fakeNode sends its reports or pieces, and then its error, if any.
type fakeNode struct {
	transport.UnimplementedPeer
	progress []*peer.DrainProgress
	pieces   []*peer.DebugPiece
	err      error
}

func (n *fakeNode) Drain(_ *peer.DrainRequest, stream transport.Sender[peer.DrainProgress]) error {
	for _, p := range n.progress {
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return n.err
}

func (n *fakeNode) Debug(_ *peer.DebugRequest, stream transport.Sender[peer.DebugPiece]) error {
	for _, p := range n.pieces {
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return n.err
}

// serve serves a fakeNode until the test ends, and returns its address.
func serve(t *testing.T, n *fakeNode) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := transport.NewServer(transport.ServerConfig{})
	transport.Register(server, n)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return l.Addr().String()
}

func hasText(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text) || err == nil && text == ""
}

func TestDrainReportsProgressUntilNodeHasLeft(t *testing.T) {
	t.Parallel()
	at := func(sessions uint32, left bool) *peer.DrainProgress {
		return &peer.DrainProgress{Sessions: sessions, Commands: 1, Left: left}
	}
	for name, c := range map[string]struct {
		node fakeNode
		want string
	}{
		"a node that leaves": {fakeNode{progress: []*peer.DrainProgress{at(2, false), at(1, false), at(0, true)}}, ""},
		"a node that stops":  {fakeNode{progress: []*peer.DrainProgress{at(2, false), at(1, false)}}, "stopped before it had left"},
		"a node that fails":  {fakeNode{progress: []*peer.DrainProgress{at(2, false), at(1, false)}, err: errors.New("boom")}, "boom"},
	} {
		var seen []int
		err := WithTLS(nil).Drain(t.Context(), serve(t, &c.node), false, func(sessions, _ int) { seen = append(seen, sessions) })
		if !hasText(err, c.want) || !slices.Equal(seen, []int{2, 1}) {
			t.Errorf("%s: %v after %v", name, err, seen)
		}
	}
}

func TestDebugJoinsPiecesAndRejectsInvalidFiles(t *testing.T) {
	t.Parallel()
	piece := func(file, data string) *peer.DebugPiece { return &peer.DebugPiece{File: file, Data: []byte(data)} }
	for name, c := range map[string]struct {
		node fakeNode
		want string
	}{
		"valid files":       {fakeNode{pieces: []*peer.DebugPiece{piece("log.txt", "a"), piece("log.txt", "b")}}, ""},
		"a path":            {fakeNode{pieces: []*peer.DebugPiece{piece("log.txt", "ab"), piece("../passwd", "")}}, `a file named "../passwd"`},
		"an error half-way": {fakeNode{pieces: []*peer.DebugPiece{piece("log.txt", "ab")}, err: transport.Errorf(transport.Internal, "boom")}, "boom"},
	} {
		files, err := WithTLS(nil).Debug(t.Context(), serve(t, &c.node))
		if !hasText(err, c.want) || len(files) != 1 || files[0].Name != "log.txt" || string(files[0].Data) != "ab" {
			t.Errorf("%s: %v with %+v", name, err, files)
		}
	}
}

func TestErrorsNameWhatOperatorsCanCheck(t *testing.T) {
	t.Parallel()
	for want, addr := range map[string]string{
		"is too old for this command": serve(t, &fakeNode{}),
		"no node can be reached at":   "127.0.0.1:1", // which no server may listen on, unlike a port that was closed
	} {
		if _, err := WithTLS(nil).Sessions(t.Context(), addr, 0); !hasText(err, want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}
