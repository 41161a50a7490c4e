module github.com/ganglion-es/ganglion/eventstore

go 1.26.0
