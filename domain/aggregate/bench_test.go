package aggregate_test

import (
	"encoding/json"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

var addLike = json.RawMessage(`{"zebra":1,"ant":2}`)

func BenchmarkDecodeCommand(b *testing.B) {
	seat := typeOf(b, &Catalog, "seat")
	sink := typeOf(b, &Catalog, "sink")
	for name, decode := range map[string]func() (any, error){
		"one string":  func() (any, error) { return seat.DecodeCommand("reserve", json.RawMessage(`{"guest":"ada"}`)) },
		"two numbers": func() (any, error) { return sink.DecodeCommand("reorder", addLike) },
		"everything":  func() (any, error) { return sink.DecodeCommand("fill", json.RawMessage(full)) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncodeCommand(b *testing.B) {
	seat := typeOf(b, &Catalog, "seat")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seat.EncodeCommand(ReserveSeat{Guest: "ada"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecide measures what the engine does for one command besides the store:
// decode, hash, decide, encode the event and apply it.
func BenchmarkDecide(b *testing.B) {
	box := typeOf(b, &Catalog, "seat")
	data := json.RawMessage(`{"guest":"ada"}`)
	call := aggregate.Call{ID: "1", Client: "ada"}
	b.ReportAllocs()
	for b.Loop() {
		state := box.NewState()
		cmd, err := box.DecodeCommand("reserve", data)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := box.EncodeCommand(cmd); err != nil {
			b.Fatal(err)
		}
		events, err := box.Decide(call, state, cmd)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range events {
			if _, _, _, err := box.EncodeEvent(e); err != nil {
				b.Fatal(err)
			}
			box.Apply(state, e)
		}
	}
}

// BenchmarkReplay measures decoding and applying one stored event.
func BenchmarkReplay(b *testing.B) {
	seat := typeOf(b, &Catalog, "seat")
	data := json.RawMessage(`{"guest":"ada"}`)
	state := seat.NewState()
	b.ReportAllocs()
	for b.Loop() {
		e, err := seat.DecodeEvent("reserved", 1, data)
		if err != nil {
			b.Fatal(err)
		}
		seat.Apply(state, e)
	}
}

func BenchmarkApply(b *testing.B) {
	seat := typeOf(b, &Catalog, "seat")
	state := seat.NewState()
	var event any = SeatReserved{Guest: "ada"}
	b.ReportAllocs()
	for b.Loop() {
		seat.Apply(state, event)
	}
}

func BenchmarkShow(b *testing.B) {
	data := json.RawMessage(`{"guest":"ada"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Catalog.Show("seat", "reserved", 1, data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommand compares the gateway's check of a command's data with the
// owner's decoding, of data that was checked and of data that was not.
func BenchmarkCommand(b *testing.B) {
	seat := typeOf(b, &Catalog, "seat")
	data := json.RawMessage(`{"guest":"ada"}`)
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Catalog.CheckCommand("seat", "reserve", data); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, decode := range map[string]func(string, json.RawMessage) (any, error){"decode": seat.DecodeCommand, "decode-checked": seat.DecodeChecked} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decode("reserve", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
