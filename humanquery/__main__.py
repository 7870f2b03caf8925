from humanquery.cli import main

main()
