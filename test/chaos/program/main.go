// Command program is ganglion with a consumer group, for the nodes of a fault test. Its
// releases after 0 also have a process manager.
package main

import (
	"os"
	"strconv"

	"github.com/ganglion-es/ganglion/cli"
	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/domain/inbox"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/test/chaos/check"
)

// receipts is the state of the process manager: nothing.
type receipts struct{}

func main() {
	group.Define(&domain.Catalog, group.Group{
		Name: check.GroupName, Access: aggregate.Authenticated, Reads: group.Reads{check.GroupReads},
		Segments: check.GroupSegments, AckWithin: check.AckWithin,
	})
	if release, _ := strconv.Atoi(os.Getenv("CHAOS_RELEASE")); release > 0 {
		process.Define(&domain.Catalog, process.Type[receipts]{
			Name: check.Receipts, Revision: release,
			On: process.Handlers[receipts]{
				process.On(func(at process.At, _ domain.AuctionOpened, _ *receipts) process.Commands {
					return process.Commands{process.Send("client", check.Office(release), inbox.Notify{Text: at.ID})}
				}),
			},
		})
	}
	os.Exit(cli.Main(&domain.Catalog, cli.Options{}))
}
