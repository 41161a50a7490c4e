package command_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/proto/command"
)

func TestRefusalAppliesToLaterTicketsOnly(t *testing.T) {
	t.Parallel()
	first := command.NewTicket()
	second := first.Next()
	third := second.Next()
	busy := &command.Failure{Code: command.CodeBusy}
	second.Refuse(busy)
	third.Refuse(&command.Failure{Code: command.CodeInternal})
	if first.Refusal() != nil || second.Refusal() != nil || third.Refusal() != busy {
		t.Errorf("refusals: %v, %v, %v; want only the third, with the first reason", first.Refusal(), second.Refusal(), third.Refusal())
	}
	if !first.Refused() {
		t.Error("Refused is false on the first ticket of a series with a refusal")
	}
	first.Refuse(busy)
	if second.Refusal() != busy {
		t.Error("an earlier refusal does not apply to a ticket that a later one spared")
	}
	var none *command.Ticket
	none.Refuse(busy)
	if none.Refusal() != nil || none.Refused() {
		t.Error("a nil ticket was refused")
	}
}
