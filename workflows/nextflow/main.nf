// A reference once, then the names of the barcodes in every FASTA file of a folder:
//
//     nextflow run workflows/nextflow -with-docker --reference moths.fasta --queries 'samples/*.fasta'

include { BARCODEMAE_INDEX    } from './modules/index/main'
include { BARCODEMAE_IDENTIFY } from './modules/identify/main'

params.reference = 'reference.fasta'
params.queries = 'queries/*.fasta'

workflow {
    queries = Channel.fromPath(params.queries).map { file -> [[id: file.baseName], file] }
    BARCODEMAE_INDEX(file(params.reference))
    BARCODEMAE_IDENTIFY(queries, BARCODEMAE_INDEX.out.reference.first())
}
