package process_test

import (
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/domain/inbox"
	"github.com/ganglion-es/ganglion/domain/process"
)

// The schedule of docs/processes.md.
func ExampleEvery() {
	weekly := process.Define(&domain.Catalog, process.Every{
		Name: "weekly",
		Cron: "0 9 * * MON", Zone: "Europe/Berlin",
		Run: func(_ process.At, planned time.Time) process.Commands {
			return process.Commands{process.Send("client", "staff", inbox.Notify{Text: "the week of " + planned.Format(time.DateOnly)})}
		},
		Scenarios: process.Scenarios{
			"the staff gets a message": process.
				Ticked(time.Date(2026, 5, 4, 7, 0, 0, 0, time.UTC)).
				Sends("client/staff", inbox.Notify{Text: "the week of 2026-05-04"}),
		},
	})
	if err := domain.Catalog.Err(); err != nil {
		fmt.Println(err)
	}
	for _, s := range weekly.Scenarios() {
		fmt.Println(s.Name, s.Run() == nil)
	}
	// Output: the staff gets a message true
}
