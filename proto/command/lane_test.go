package command_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/proto/command"
)

func TestARefusalMeetsOnlyWhatIsBehindIt(t *testing.T) {
	t.Parallel()
	first := command.NewLane()
	second := first.Next()
	third := second.Next()
	busy := &command.Failure{Code: command.Busy}
	second.Refuse(busy)
	third.Refuse(&command.Failure{Code: command.Internal})
	if first.Refusal() != nil || second.Refusal() != nil || third.Refusal() != busy {
		t.Errorf("refusals: %v, %v, %v; want only the third, with the first reason", first.Refusal(), second.Refusal(), third.Refusal())
	}
	if !first.Refused() {
		t.Error("the lane doesn't know that it was refused")
	}
	first.Refuse(busy)
	if second.Refusal() != busy {
		t.Error("an earlier refusal does not meet what a later one spared")
	}
	var none *command.Lane
	none.Refuse(busy)
	if none.Refusal() != nil || none.Refused() {
		t.Error("a command without a lane was refused")
	}
}
