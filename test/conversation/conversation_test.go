package conversation_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/conversation"
)

// TestScriptsUseOnlyProtocolFrames parses every frame of every script, which keeps
// the scripts in line with the protocol.
func TestScriptsUseOnlyProtocolFrames(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../proto/testdata/conversations/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		s, err := conversation.Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for i, step := range s.Steps {
			var frames []json.RawMessage
			switch step.Verb {
			case "expect":
				frames = append(frames, step.Body)
			case "say":
				if err := json.Unmarshal(step.Body, &frames); err != nil {
					t.Errorf("%s: step %d: %v", s.Name, i+1, err)
				}
			}
			for _, f := range frames {
				if step.Verb == "expect" {
					_, err = frame.ParseRequest(f)
				} else {
					_, err = frame.ParseAnswer(f)
				}
				if err != nil {
					t.Errorf("%s: step %d: %s: %v", s.Name, i+1, f, err)
				}
			}
		}
	}
}
